"""Where a study is kept: an SQLite file, or any database that Optuna knows."""

import contextlib
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import journal
from optuna.trial import TrialState

ERRORS = optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError


class StorageError(OSError):
    """A study cannot be read or written."""


class Storage(optuna.storages.RDBStorage):
    """Optuna's database; a trial gives a sign of life before it runs, so no kill goes unnoticed."""

    def set_trial_state_values(self, trial_id, state, values=None):
        if state == TrialState.RUNNING:
            self.record_heartbeat(trial_id)
        return super().set_trial_state_values(trial_id, state, values)


@contextlib.contextmanager
def clear_errors():
    """Turn whatever a full, read-only or missing storage raises into one StorageError."""
    try:
        yield
    except StorageError:
        raise
    except (*ERRORS, ImportError, OSError) as error:
        reason = str(getattr(error.__cause__ or error, "orig", None) or error).splitlines()[0]
        raise StorageError(
            f"the study cannot be read or written: {reason}. Finished trials are kept. Fix this "
            "or choose another storage, then run the same command again") from error


@contextlib.contextmanager
def locked(path):
    """Inside `with`, this process alone has the lock of the file `path`."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    lock = journal.JournalFileOpenLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def open_journal(path):
    """The studies in an Optuna journal. Its usual lock is a link, which Windows may refuse."""
    lock = journal.JournalFileOpenLock(str(path))
    return optuna.storages.JournalStorage(journal.JournalFileBackend(str(path), lock))


@clear_errors()
def open_storage(where, **options):
    """The storage at `where`: an SQLite file, made if it is new, or the URL of a database."""
    url, lock = str(where), contextlib.nullcontext()
    if "://" not in url:
        path = str(Path(url).expanduser().resolve())
        url, lock = sqlalchemy.URL.create("sqlite", database=path).render_as_string(), locked(path)
    if not url.startswith("sqlite"):
        return Storage(url, **options)
    with lock:                               # two processes may open the same new file
        arguments = {"connect_args": {"timeout": 60, "isolation_level": None}}
        storage = Storage(url, arguments, **options)
    # SQLite locks at the first write; two workers could read that a trial waits, and both take it.
    sqlalchemy.event.listen(storage.engine, "begin",
                            lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return storage
