"""The one exception that the command line turns into a sentence. Example: raise UserError("no file 'x.npz'")"""


class UserError(Exception):
    """A mistake of the user's or of the world's: one sentence that names the choices or the remedy; exit code 2."""
