"""The exceptions and exit codes that have a meaning beyond their module. Example: raise UserError("no file 'x.npz'")"""

# A run or a timing failed, or a store has problems; the user's mistake or the world's; Ctrl-C; SIGTERM, SIGHUP.
EXIT_FAILED, EXIT_USER, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


class UserError(Exception):
    """A mistake of the user's or of the world's: one sentence that names the choices or the remedy; exit code 2."""


class Interrupted(Exception):
    """The parent asked this process to stop; raised between two steps, never within one."""


class Busy(Exception):
    """Somebody else has it; the message says who."""


class Diverged(Exception):
    """A loss stopped being finite; `step` counts from 0. Logits of nan would read as class 0, so as some accuracy."""

    def __init__(self, step: int, what: str = "training loss") -> None:
        super().__init__(f"{what} not finite at step {step}")
        self.step = step


class Terminated(KeyboardInterrupt):
    """SIGTERM, or the terminal was closed: ends a sweep as Ctrl-C does, with an exit code of its own."""


class Unfit(Exception):
    """This machine is not what the driver is: no fault of the run, which another machine may do."""


class NotIdle(UserError):
    """A speed session found others at work on its machine."""
