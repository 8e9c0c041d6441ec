"""What the service promises to those who trust it, one test module per chapter.

The name of each test begins with the row that it proves, so `pytest tests/security -k c3` runs one row. Rows that
are proven elsewhere are in `rows.py`.
"""
