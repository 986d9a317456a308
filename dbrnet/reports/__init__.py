"""Every page, card, gallery and plot that a person sees, made from the records alone."""
