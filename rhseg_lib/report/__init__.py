"""The pages: the paper's tables and claims, tables, figures and findings of ours, and what turns notebooks to HTML."""
