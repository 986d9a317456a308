"""The errors a user can cause, told apart from our own bugs."""


class UserError(Exception):
    """Wrong input: one line that says what is wrong, where, and what to do. The CLI exits with status 2."""


class JobError(Exception):
    """The input is fine but the job failed (a model that diverged, a server away). Exit status 1."""
