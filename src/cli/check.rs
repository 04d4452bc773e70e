//! `tenure check`.

use clap::Args;

use super::{GlobalArgs, JobArgs, block_on};
use crate::error::ExitStatus;
use crate::printer::Printer;
use crate::{AsOf, Result, pipeline};

/// `tenure check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    job: JobArgs,
    /// Look at the lake and the model too
    #[arg(long)]
    online: bool,
    /// The day for `--online` [default: today]
    #[arg(long, value_name = "YYYY-MM-DD", requires = "online")]
    as_of: Option<String>,
}

pub(super) fn run(args: &CheckArgs, global: &GlobalArgs, printer: &Printer) -> Result<ExitStatus> {
    let spec = args.job.load()?;
    let engine = global.engine()?;
    // A check runs no model, but a wrong option is wrong here too.
    global.device()?;
    let report = block_on(&engine, async {
        if !args.online {
            return pipeline::check(&spec).await;
        }
        let as_of = match &args.as_of {
            Some(text) => AsOf::parse(text, spec.timezone())?,
            None => today(&spec),
        };
        pipeline::check_online(&spec, as_of, &engine).await
    })?;
    for note in &report.notes {
        printer.say(format!("note: {note}"));
    }
    if printer.json() {
        printer.data_json(&report)?;
    } else if !global.quiet {
        printer.data(report.to_string());
    }
    report.alerts.iter().for_each(|alert| printer.warn(alert));
    Ok(if report.alerts.is_empty() { ExitStatus::Done } else { ExitStatus::Alert })
}

/// Only a check may ask the clock which day it is: a night is always named.
#[allow(clippy::disallowed_methods)]
fn today(spec: &crate::spec::JobSpec) -> AsOf {
    AsOf::new(chrono::Utc::now().with_timezone(&spec.timezone()).date_naive(), spec.timezone())
}
