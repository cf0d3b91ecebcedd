"""The report: the paper's tables and claims, our tables, figures and findings, and the notebook-to-HTML conversion."""
