"""What people read of results: tables, pictures, pages."""
