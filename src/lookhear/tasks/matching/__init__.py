"""Do sound and picture find one another: among clips, and among the moments of one clip?"""
