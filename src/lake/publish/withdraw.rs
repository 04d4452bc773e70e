//! Taking a published night back: a commit without tables, then its tables are deleted.
//!
//! Whoever looks at the night from then on finds nothing in force, and a run of it computes it again. What the withdrawn run had
//! replaced does not come back: its bytes are gone. A marker in staging, put before the commit, leads the next command that looks
//! to a withdrawal that was killed half way.

use chrono::NaiveDate;

use super::commit::{self, Commit, Withdrawal};
use super::{CLAIMS, place, record_at};
use crate::lake::{PutOutcome, Store};
use crate::ledger::{RunStatus, clock};
use crate::{Error, Result, failpoint};

/// Places at which a test can kill a withdrawal, in their order.
pub const WITHDRAW_POINTS: &[&str] =
    &["withdraw.marked", "withdraw.committed", "withdraw.deleting", "withdraw.deleted", "withdraw.recorded"];

/// What became of a request to withdraw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithdrawOutcome {
    /// The night is no longer published.
    Withdrawn,
    /// It was withdrawn before.
    AlreadyWithdrawn,
}

/// Takes back the night of a run, which has to be the one in force.
pub async fn withdraw(store: &Store, as_of: NaiveDate, run_id: &str) -> Result<WithdrawOutcome> {
    for _ in 0..CLAIMS {
        let Some(highest) = commit::highest(store, as_of).await? else {
            return Err(Error::user(format!("the run `{run_id}` published nothing"))
                .hint("`tenure runs` lists what became of each run"));
        };
        if let Some(withdrawal) = &highest.withdraws {
            if withdrawal.run_id != run_id {
                let before = &withdrawal.run_id;
                return Err(Error::user(format!(
                    "the night of {as_of} is not published: its last run, `{before}`, was withdrawn"
                )));
            }
            finish(store, &highest).await?;
            return Ok(WithdrawOutcome::AlreadyWithdrawn);
        }
        if highest.run_id != run_id {
            let message = format!("the run `{run_id}` is not in force: `{}` replaced it", highest.run_id);
            return Err(Error::user(message).hint(format!("the night of {as_of} is that run's: withdraw it instead")));
        }
        for table in &highest.tables {
            store.refuse_links(&table.path)?;
        }
        let withdrawal = highest.withdrawn();
        let marker = commit::marker(&withdrawal);
        store.put(&marker, "{}").await?;
        failpoint::reach("withdraw.marked");
        if commit::put(store, &withdrawal).await? == PutOutcome::Created {
            failpoint::reach("withdraw.committed");
            finish(store, &withdrawal).await?;
            return Ok(WithdrawOutcome::Withdrawn);
        }
        store.delete(&marker).await?;
    }
    Err(Error::infra(format!("too many runs commit the night of {as_of} at once")))
}

/// Deletes what a withdrawal left of its night, and says so in the run's record. Does nothing where that is done.
pub(super) async fn finish(store: &Store, commit: &Commit) -> Result<()> {
    let Some(withdrawal) = &commit.withdraws else { return Ok(()) };
    place::fence(store, commit).await?;
    for path in &withdrawal.tables {
        if store.head(path).await?.is_some() {
            // A run that commits now puts its own tables there.
            place::still_in_force(store, commit).await?;
            failpoint::reach("withdraw.deleting");
            store.delete(path).await?;
            failpoint::reach("withdraw.deleted");
        }
    }
    record(store, commit, withdrawal).await?;
    failpoint::reach("withdraw.recorded");
    place::clean(store, commit).await
}

async fn record(store: &Store, commit: &Commit, withdrawal: &Withdrawal) -> Result<()> {
    let Some(mut record) = record_at(store, commit.as_of, &withdrawal.run_id).await? else { return Ok(()) };
    // A run with this name that began, or failed, after the withdrawal has a record of its own.
    let is_of_commit = record.commit == Some(withdrawal.number) || record.status == RunStatus::Running;
    if record.withdrawn.is_none() && is_of_commit {
        record.withdrawn = Some(clock());
        record.save(store).await?;
    }
    Ok(())
}
