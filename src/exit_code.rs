//! Every exit code, and when.
//!
//! Scripts branch on these numbers, so they never change their meaning. Retrying is for 5 and 11;
//! 4 means that refs are published; every other code but 0 means that the mirror is as it was.
//! The mapping reads only the *kind* of an error, never its text.

use crate::mirror::{MirrorError, Status};
use crate::source::SourceErrorKind;
use crate::store::StoreErrorKind;

/// How the program ends. The discriminant is the number that the shell sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Done, also when there was nothing to do.
    Done = 0,
    /// Failed; nothing was published for that repository.
    Failed = 1,
    /// The command line, or a file that it names, can't be used. Nothing was begun.
    Usage = 2,
    /// Several repositories: some failed.
    SomeFailed = 3,
    /// Refs were published, some LFS objects are missing.
    LfsMissing = 4,
    /// A temporary failure of the source or the store, after all retries.
    TryAgain = 5,
    /// Another run published meanwhile; nothing is lost.
    Conflict = 11,
    /// Access denied by the source or the store.
    Denied = 12,
    /// A guard refused: the source lost all or most of its refs.
    Guard = 13,
    /// Interrupted by SIGINT, after cleaning up (128 + 2).
    Interrupted = 130,
    /// Interrupted by SIGTERM, after cleaning up (128 + 15).
    Terminated = 143,
}

impl ExitCode {
    /// All of them, in the order of their numbers.
    pub const ALL: [ExitCode; 11] = [
        ExitCode::Done,
        ExitCode::Failed,
        ExitCode::Usage,
        ExitCode::SomeFailed,
        ExitCode::LfsMissing,
        ExitCode::TryAgain,
        ExitCode::Conflict,
        ExitCode::Denied,
        ExitCode::Guard,
        ExitCode::Interrupted,
        ExitCode::Terminated,
    ];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// When a run ends with it, in one line, as `--help` and the README say it.
    pub const fn when(self) -> &'static str {
        match self {
            ExitCode::Done => "success, also if there was nothing to do",
            ExitCode::Failed => "failed; nothing was published for that repository",
            ExitCode::Usage => "usage error",
            ExitCode::SomeFailed => "some of several repositories failed",
            ExitCode::LfsMissing => "refs were published, some LFS objects are missing",
            ExitCode::TryAgain => "temporary failure after all retries: try again later",
            ExitCode::Conflict => "another run published meanwhile; nothing is lost",
            ExitCode::Denied => "access denied by the source or the store",
            ExitCode::Guard => "refused by a guard; the message says what to do",
            ExitCode::Interrupted => "interrupted by SIGINT, after cleaning up",
            ExitCode::Terminated => "interrupted by SIGTERM, after cleaning up",
        }
    }

    /// The code of a run that did not fail.
    pub const fn of_status(status: Status) -> Self {
        match status {
            Status::Ok | Status::Unchanged => ExitCode::Done,
            Status::Partial => ExitCode::LfsMissing,
        }
    }

    /// The code of a run that failed. An interruption counts as SIGINT's here; who knows the signal
    /// says so with [`ExitCode::of_signal`].
    pub fn of_error(error: &MirrorError) -> Self {
        match error {
            MirrorError::Source(error) => match error.kind {
                SourceErrorKind::Denied => ExitCode::Denied,
                SourceErrorKind::Transient { .. } | SourceErrorKind::TooSlow => ExitCode::TryAgain,
                SourceErrorKind::Fatal => ExitCode::Failed,
            },
            MirrorError::Store(error) => match error.kind {
                StoreErrorKind::Denied | StoreErrorKind::ExpiredCredentials => ExitCode::Denied,
                StoreErrorKind::Transient { .. } => ExitCode::TryAgain,
                StoreErrorKind::NotFound
                | StoreErrorKind::ConditionFailed
                | StoreErrorKind::Unsupported
                | StoreErrorKind::Other => ExitCode::Failed,
            },
            MirrorError::Guard(_) => ExitCode::Guard,
            MirrorError::Conflict => ExitCode::Conflict,
            MirrorError::Interrupted => ExitCode::Interrupted,
            MirrorError::TimedOut(_) => ExitCode::TryAgain,
            MirrorError::Pack(_) | MirrorError::Mirror(_) | MirrorError::Internal(_) => {
                ExitCode::Failed
            }
        }
    }

    /// The code of a run that a signal ended; `None` for signals that are not handled.
    pub const fn of_signal(signal: i32) -> Option<Self> {
        match signal {
            signal_hook::consts::SIGINT => Some(ExitCode::Interrupted),
            signal_hook::consts::SIGTERM | signal_hook::consts::SIGHUP => {
                Some(ExitCode::Terminated)
            }
            _ => None,
        }
    }

    /// The program's code from its repositories' codes: a single one's own; of several, 0 or 3.
    pub fn of_all(codes: &[ExitCode]) -> Self {
        match codes {
            [one] => *one,
            all if all.iter().all(|code| *code == ExitCode::Done) => ExitCode::Done,
            _ => ExitCode::SomeFailed,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        code.code().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::SourceError;
    use crate::store::StoreError;

    fn source(kind: SourceErrorKind) -> MirrorError {
        SourceError { kind, url: "https://h/r".into(), message: "m".into() }.into()
    }

    fn store(kind: StoreErrorKind) -> MirrorError {
        StoreError::new(kind, "put", "s3://b/k", "m").into()
    }

    #[test]
    fn each_error_has_the_code_that_the_contract_names() {
        let again = None;
        for (error, code) in [
            (source(SourceErrorKind::Denied), 12),
            (source(SourceErrorKind::Transient { retry_after: again }), 5),
            (source(SourceErrorKind::TooSlow), 5),
            (source(SourceErrorKind::Fatal), 1),
            (store(StoreErrorKind::Denied), 12),
            (store(StoreErrorKind::ExpiredCredentials), 12),
            (store(StoreErrorKind::Transient { retry_after: again }), 5),
            (store(StoreErrorKind::NotFound), 1),
            (store(StoreErrorKind::ConditionFailed), 1),
            (store(StoreErrorKind::Unsupported), 1),
            (store(StoreErrorKind::Other), 1),
            (MirrorError::Guard("g".into()), 13),
            (MirrorError::Conflict, 11),
            (MirrorError::Interrupted, 130),
            (MirrorError::TimedOut(Default::default()), 5),
            (MirrorError::Pack("p".into()), 1),
            (MirrorError::Mirror("m".into()), 1),
            (MirrorError::Internal("i".into()), 1),
        ] {
            assert_eq!(ExitCode::of_error(&error).code(), code, "{error:?}");
        }
    }

    #[test]
    fn one_repository_keeps_its_code_and_several_give_0_or_3() {
        use ExitCode::*;
        assert_eq!(ExitCode::of_all(&[]), Done);
        for code in ExitCode::ALL {
            assert_eq!(ExitCode::of_all(&[code]), code);
        }
        assert_eq!(ExitCode::of_all(&[Done, Done]), Done);
        assert_eq!(ExitCode::of_all(&[Done, TryAgain, Done]), SomeFailed);
        assert_eq!(ExitCode::of_all(&[Denied, Denied]), SomeFailed);
        assert_eq!(ExitCode::of_all(&[LfsMissing, Done]), SomeFailed);
    }

    #[test]
    fn only_a_status_with_missing_lfs_objects_is_not_0() {
        assert_eq!(ExitCode::of_status(Status::Ok).code(), 0);
        assert_eq!(ExitCode::of_status(Status::Unchanged).code(), 0);
        assert_eq!(ExitCode::of_status(Status::Partial).code(), 4);
    }

    #[test]
    fn signals_end_as_shells_expect() {
        assert_eq!(ExitCode::of_signal(2).map(ExitCode::code), Some(130));
        assert_eq!(ExitCode::of_signal(15).map(ExitCode::code), Some(143));
        assert_eq!(ExitCode::of_signal(1).map(ExitCode::code), Some(143));
        assert_eq!(ExitCode::of_signal(10), None);
    }
}
