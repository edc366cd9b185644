//! `ficelle doctor`.

use serde_json::json;

use super::{context::Context, failure::Failure, output};
use crate::{
    session::{EngineError, Finding, Verdict},
    ui::Palette,
};

/// Look whether this machine can run containers, and say what mends it
///
/// Ends with 1 when it cannot.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print a JSON list
    #[arg(long)]
    json: bool,

    /// Why this user cannot run containers at all.
    #[arg(skip)]
    pub refused: Option<EngineError>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let mut found = context.connect()?.examine().await;
        if let Some(error) = &self.refused {
            for finding in found.iter_mut().filter(|finding| finding.name == "user") {
                finding.text = error.to_string();
                finding.fix = Some(error.help.join("; ")).filter(|help| !help.is_empty());
            }
        }
        if self.json {
            let list: Vec<_> = found
                .iter()
                .map(|f| json!({"name": f.name, "verdict": f.verdict.word(), "text": f.text, "fix": f.fix}))
                .collect();
            output::lines([json!(list).to_string().as_str()])?;
        } else {
            let palette = context.out_palette();
            let lines: Vec<String> = found.iter().map(|finding| line(finding, palette)).collect();
            output::lines(lines.iter().map(String::as_str))?;
        }
        Ok(i32::from(found.iter().any(|finding| finding.verdict == Verdict::Fail)))
    }
}

/// What is not well, for whoever was let down by the engine; none when all is well.
pub(super) async fn short(context: &Context) -> Vec<String> {
    let Ok(engine) = context.connect() else { return Vec::new() };
    let found = engine.examine().await.into_iter().filter(|finding| finding.verdict != Verdict::Pass);
    found.map(|finding| line(&finding, Palette { colour: false })).collect()
}

/// `warn  disk: 90 MiB free; mend it with: ...`.
fn line(finding: &Finding, palette: Palette) -> String {
    let word = finding.verdict.word();
    let word = match finding.verdict {
        Verdict::Pass => palette.good(word),
        Verdict::Warn => palette.warn(word),
        Verdict::Fail => palette.bad(word),
    };
    let fix = finding.fix.as_ref().map(|fix| format!("; mend it with: {fix}")).unwrap_or_default();
    format!("{word}  {}: {}{fix}", finding.name, finding.text)
}
