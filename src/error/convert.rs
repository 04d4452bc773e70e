//! Other crates' errors in our terms.
//!
//! Engines wrap each other's errors: an outage of a store comes as DataFusion's error around Parquet's around the store's. What
//! counts is what lies innermost: an [`Error`] of ours comes out as it went in, and a failed read or request keeps its class
//! whatever is around it.

use std::error::Error as StdError;
use std::io;

use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use parquet::errors::ParquetError;

use super::{Class, Error, Problem, Source};

const DAMAGED: &str = "a Parquet file cannot be read";
const WRITE_AGAIN: &str = "was it written whole? write it again from where its rows come from";

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::External(source) => from_boxed(source, "the query failed"),
            DataFusionError::Context(what, inner) => Error::from(*inner).context(what),
            DataFusionError::Diagnostic(_, inner) => Error::from(*inner),
            DataFusionError::Shared(shared) => from_shared(&shared),
            DataFusionError::ObjectStore(source) => Error::from(*source),
            DataFusionError::ResourcesExhausted(what) => out_of_memory(&what),
            DataFusionError::IoError(source) => from_io(source, "reading or writing failed", Class::Infra),
            DataFusionError::ParquetError(source) => Error::from(*source),
            DataFusionError::Collection(errors) => match errors.into_iter().next() {
                Some(first) => Error::from(first),
                None => Error::infra("the query failed"),
            },
            DataFusionError::Internal(what) => Error::bug(what),
            DataFusionError::ExecutionJoin(source) => Error::task("a part of the query", *source),
            // What is left comes from the SQL or the data: plan, schema, arithmetic, casts, unsupported syntax.
            DataFusionError::ArrowError(source, _) => Error::from(*source),
            DataFusionError::SQL(source, _) => Error::user(source.to_string()),
            other => Error::user(other.strip_backtrace()),
        }
    }
}

impl From<ArrowError> for Error {
    fn from(error: ArrowError) -> Self {
        match error {
            ArrowError::ExternalError(source) => from_boxed(source, "the data cannot be handled"),
            ArrowError::IoError(_, source) => from_io(source, "reading or writing failed", Class::User),
            ArrowError::ParquetError(what) => Error::user(DAMAGED).because(what).hint(WRITE_AGAIN),
            other => Error::user(other.to_string()),
        }
    }
}

impl From<ParquetError> for Error {
    fn from(error: ParquetError) -> Self {
        match error {
            ParquetError::External(source) => {
                let error = from_boxed(source, DAMAGED);
                let said = error.class() != Class::User || error.problems().next().is_some_and(|p| p.hint.is_some());
                if said { error } else { error.hint(WRITE_AGAIN) }
            }
            other => Error::user(DAMAGED).because(other).hint(WRITE_AGAIN),
        }
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        use object_store::Error as Store;
        let error = match error {
            Store::Generic { store, source } => match source.downcast::<Error>() {
                Ok(ours) => return *ours,
                Err(source) => match source.downcast::<Store>() {
                    Ok(inner) => return Error::from(*inner),
                    Err(source) => Store::Generic { store, source },
                },
            },
            other => other,
        };
        match &error {
            Store::NotFound { path, .. } => Error::user(format!("`{path}` is not there")),
            // A token that expired, a role that is not attached yet: nothing of the job's is wrong.
            Store::PermissionDenied { path, .. } | Store::Unauthenticated { path, .. } => {
                Error::infra(format!("no permission for `{path}`"))
                    .hint("check the credentials in the environment, and whether they have expired")
            }
            Store::NotImplemented { .. } | Store::NotSupported { .. } => Error::user("the store cannot do this"),
            Store::InvalidPath { .. } => Error::user("a name in the store cannot be used"),
            other => Error::new(class_of(other).unwrap_or(Class::Infra), Problem::new("the object store failed")),
        }
        .because(error)
    }
}

/// An error that somebody has put into a box; `what` failed where it is none that is known here.
fn from_boxed(source: Source, what: &str) -> Error {
    let source = match source.downcast::<Error>() {
        Ok(ours) => return *ours,
        Err(source) => source,
    };
    let source = match source.downcast::<DataFusionError>() {
        Ok(error) => return Error::from(*error),
        Err(source) => source,
    };
    let source = match source.downcast::<ArrowError>() {
        Ok(error) => return Error::from(*error),
        Err(source) => source,
    };
    let source = match source.downcast::<ParquetError>() {
        Ok(error) => return Error::from(*error),
        Err(source) => source,
    };
    let source = match source.downcast::<object_store::Error>() {
        Ok(error) => return Error::from(*error),
        Err(source) => source,
    };
    let source = match source.downcast::<io::Error>() {
        Ok(error) => return from_io(*error, what, Class::User),
        Err(source) => source,
    };
    // What no store and no system call said is about the SQL or the data, as a pattern that does not compile.
    let class = class_of(source.as_ref()).unwrap_or(Class::User);
    Error::new(class, Problem::new(what)).because(source)
}

/// A failed read or write, or what somebody has wrapped in one. `otherwise` is the class of those that a library made up itself.
fn from_io(error: io::Error, what: &str, otherwise: Class) -> Error {
    if error.get_ref().is_some() {
        return match error.into_inner() {
            Some(inner) => {
                let class = class_of(inner.as_ref());
                match class {
                    Some(_) => from_boxed(inner, what),
                    None => Error::new(otherwise, Problem::new(what)).because(inner),
                }
            }
            None => Error::new(otherwise, Problem::new(what)),
        };
    }
    let class = class_of_io(&error, otherwise);
    Error::new(class, Problem::new(what)).because(error)
}

/// A shared error cannot be taken apart: one of ours is copied, and of others the class is found behind the references.
fn from_shared(shared: &DataFusionError) -> Error {
    if let Some(ours) = find::<Error>(shared) {
        return ours.copied();
    }
    match shared.find_root() {
        DataFusionError::ResourcesExhausted(what) => out_of_memory(what),
        root => {
            let damaged = find::<ParquetError>(root).is_some();
            let class = class_of(root).unwrap_or(Class::User);
            match damaged && class == Class::User {
                true => Error::user(DAMAGED).because(root.strip_backtrace()).hint(WRITE_AGAIN),
                false => Error::new(class, Problem::new(root.strip_backtrace())),
            }
        }
    }
}

fn out_of_memory(what: &str) -> Error {
    Error::infra(format!("out of memory: {what}")).hint("give the run more with `--memory-limit`, or fewer `--threads`")
}

/// An error and those below it, outermost first. Unlike [`StdError::source`], what an [`io::Error`] wraps is one of them.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| {
        let error: &'a (dyn StdError + 'static) = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner as _),
            None => error.source(),
        }
    })
}

/// The first error of a type in an error or below it.
pub(crate) fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    chain(error).find_map(|error| error.downcast_ref::<E>())
}

/// The class of an error by what lies in it: one of ours, a failed system call or a failed request; `None` where there is none.
pub(crate) fn class_of(error: &(dyn StdError + 'static)) -> Option<Class> {
    chain(error).filter_map(class_of_one).last()
}

fn class_of_one(error: &(dyn StdError + 'static)) -> Option<Class> {
    use object_store::Error as Store;
    if let Some(ours) = error.downcast_ref::<Error>() {
        return Some(ours.class());
    }
    if let Some(io) = error.downcast_ref::<io::Error>() {
        // What a library has made up says nothing by itself: a decoder calls damaged bytes so, too.
        return io.raw_os_error().map(|_| class_of_io(io, Class::Infra)).or(match is_of_network(io) {
            true => Some(Class::Infra),
            false => None,
        });
    }
    match error.downcast_ref::<Store>()? {
        Store::InvalidPath { .. } | Store::NotImplemented { .. } | Store::NotSupported { .. } => Some(Class::User),
        // Walking a folder finds this one by itself: no system call fails.
        Store::Generic { source, .. } if source.to_string().contains("File system loop") => Some(Class::User),
        _ => Some(Class::Infra),
    }
}

/// The class of a failed read or write. No retry helps where a path leads nowhere or bytes are not what they should be.
pub(super) fn class_of_io(error: &io::Error, otherwise: Class) -> Class {
    let hopeless = [libc::ELOOP, libc::ENAMETOOLONG, libc::EISDIR, libc::ENOTDIR];
    match error.raw_os_error() {
        Some(code) if hopeless.contains(&code) => Class::User,
        Some(_) => Class::Infra,
        None if is_of_network(error) => Class::Infra,
        None => match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => Class::User,
            _ => otherwise,
        },
    }
}

fn is_of_network(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::NotConnected
            | Kind::BrokenPipe
            | Kind::TimedOut
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn os(code: i32) -> io::Error {
        io::Error::from_raw_os_error(code)
    }

    /// What an engine makes of an error on its way to us.
    fn wrapped(inner: impl Fn() -> Source) -> Vec<Error> {
        let parquet = || ParquetError::External(inner());
        let store = || object_store::Error::Generic { store: "S3", source: inner() };
        let engine = [
            DataFusionError::External(inner()),
            DataFusionError::ParquetError(Box::new(parquet())),
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(parquet()))), None),
            DataFusionError::ArrowError(Box::new(ArrowError::IoError("x".into(), io::Error::other(inner()))), None),
            DataFusionError::ObjectStore(Box::new(store())),
            DataFusionError::Shared(Arc::new(DataFusionError::ParquetError(Box::new(parquet())))),
            DataFusionError::Context("while reading".into(), Box::new(DataFusionError::External(Box::new(store())))),
            DataFusionError::IoError(io::Error::other(store())),
        ];
        engine.into_iter().map(Error::from).collect()
    }

    #[test]
    fn a_failed_read_keeps_its_class_whatever_is_around_it() {
        for code in [libc::EIO, libc::EMFILE, libc::ENFILE, libc::EACCES, libc::ENOENT, libc::ENOSPC] {
            for (i, error) in wrapped(|| Box::new(os(code))).into_iter().enumerate() {
                assert_eq!(error.class(), Class::Infra, "errno {code}, wrapping {i}: {error:?}");
            }
        }
        for error in wrapped(|| Box::new(os(libc::ELOOP))) {
            assert_eq!(error.class(), Class::User, "{error:?}");
        }
    }

    #[test]
    fn an_error_of_ours_comes_out_with_its_class_and_hint() {
        let ours = || -> Source {
            let inner = Error::infra("`a.parquet` was replaced").hint("run it again");
            Box::new(object_store::Error::Generic { store: "lake", source: Box::new(inner) })
        };
        for error in wrapped(ours) {
            let problem = error.problems().next().unwrap();
            assert_eq!((error.class(), problem.hint.as_deref()), (Class::Infra, Some("run it again")), "{error:?}");
        }
    }

    #[test]
    fn what_decoders_say_is_about_the_data() {
        let made_up = [
            ParquetError::General("snappy: corrupt input".into()),
            ParquetError::EOF("too short".into()),
            ParquetError::External(Box::new(io::Error::other("Unknown frame descriptor"))),
            ParquetError::External(Box::new(io::Error::new(io::ErrorKind::UnexpectedEof, "too short"))),
        ];
        for error in made_up {
            let error = Error::from(DataFusionError::ParquetError(Box::new(error)));
            assert_eq!((error.class(), error.to_string().as_str()), (Class::User, DAMAGED));
            assert!(error.problems().next().unwrap().hint.is_some());
        }
        let pattern = Error::from(DataFusionError::External("regex parse error".into()));
        assert_eq!(pattern.class(), Class::User);
    }

    #[test]
    fn expired_credentials_may_be_tried_again() {
        let source = || -> Source { "403".into() };
        for error in [
            object_store::Error::PermissionDenied { path: "a".into(), source: source() },
            object_store::Error::Unauthenticated { path: "a".into(), source: source() },
        ] {
            assert_eq!(Error::from(error).class(), Class::Infra);
        }
    }

    #[test]
    fn a_loop_of_folders_is_the_users_fault() {
        let looped =
            object_store::Error::Generic { store: "x", source: "File system loop found: a points to b".into() };
        assert_eq!(Error::from(looped).class(), Class::User);
        let error = Error::io("a", os(libc::ELOOP));
        assert_eq!(error.class(), Class::User);
        assert_eq!(Error::io("a", os(libc::EACCES)).class(), Class::Infra);
        assert_eq!(Error::io("a", os(libc::ENOENT)).class(), Class::User);
        let text = io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
        assert_eq!(Error::io("a", text).class(), Class::User);
    }
}
