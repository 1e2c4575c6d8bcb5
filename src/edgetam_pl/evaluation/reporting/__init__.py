"""What an evaluation tells: tables, pages and pictures."""
