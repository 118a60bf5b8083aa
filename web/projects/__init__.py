"""The start page: questions, previews, comparisons and archives of projects."""
