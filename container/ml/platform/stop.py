"""The signals that ask a job to end."""

import signal

from ml.log import say


class StopSignal:
    """Set once the process is asked to end (SIGTERM from SageMaker and Docker, SIGINT from a terminal).

    Calling it says whether it is set, so that what takes `Callable[[], bool]` needs to know nothing of signals.
    Make it first: as PID 1 a process without a handler never learns of a SIGTERM.
    """

    def __init__(self):
        self.is_set = False
        self.listen()

    def listen(self) -> None:
        """Takes the signals; call it again once something else may have put a handler of its own in place."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def __call__(self) -> bool:
        return self.is_set

    def _receive(self, number, _frame) -> None:
        self.is_set = True
        say(f"received {signal.Signals(number).name}: stopping as soon as the step under way ends")
