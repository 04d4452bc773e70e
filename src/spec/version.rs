//! Which version of a Delta table is read.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::node::Node;
use super::problems::Problems;
use super::read::{FromNode, scalar};

/// A version of a Delta table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableVersion {
    /// That of this number.
    Number(u64),
    /// The newest one of this time.
    Timestamp(DateTime<Utc>),
}

/// A moment with its offset from UTC: `2026-06-30T00:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Instant(pub DateTime<Utc>);

impl FromNode for Instant {
    fn from_node(node: &Node, problems: &mut Problems) -> Option<Self> {
        let hint = "write it with its offset from UTC: `2026-06-30T00:00:00Z`, `2026-06-30T02:00:00+02:00`";
        scalar(node, problems, "a moment", hint, |text| {
            DateTime::parse_from_rfc3339(text.trim()).ok().map(|at| Instant(at.with_timezone(&Utc)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::node::{Kind, Pos};

    #[test]
    fn a_moment_has_an_offset() {
        let read = |text: &str| {
            let node = Node { pos: Pos::START, kind: Kind::Scalar(text.to_owned()) };
            Instant::from_node(&node, &mut Problems::of("job.yaml")).map(|at| at.0.to_rfc3339())
        };
        assert_eq!(read("2026-06-30T02:00:00+02:00").unwrap(), "2026-06-30T00:00:00+00:00");
        assert_eq!(read("2026-06-30T00:00:00"), None);
    }
}
