"""An index in a browser: one page, and the JSON API that does everything the page does."""
