"""What a person reads of a decision: its page, the model's card, and the ledger's page."""
