"""What a person looks at: figures and tables on one HTML page that needs no server and no network."""
