//! A plan as text, for `--dry-run`: what would be done, and why.

use crate::{
    apply::{Cause, Plan, Step},
    engine::Op,
    ui::Palette,
};

/// One line for each step, its cause behind it; differences of fields below.
#[must_use]
pub fn plan_lines(plan: &Plan, palette: Palette) -> Vec<String> {
    let width = plan.steps.iter().map(|step| step.op.to_string().len()).max().unwrap_or(0);
    plan.steps.iter().flat_map(|step| step_lines(step, width, palette)).collect()
}

fn step_lines(step: &Step, width: usize, palette: Palette) -> Vec<String> {
    let op = step.op.to_string();
    let pad = width - op.len();
    let mark = match &step.op {
        Op::Create(create) if create.replaces.is_some() => palette.warn("±"),
        Op::Pull(_)
        | Op::Build(_)
        | Op::Push(_)
        | Op::CreateNetwork { .. }
        | Op::CreateVolume { .. }
        | Op::Create(_) => palette.good("+"),
        Op::RemoveNetwork { .. } | Op::RemoveVolume { .. } | Op::Remove { .. } => palette.bad("-"),
        Op::Start { .. }
        | Op::Stop { .. }
        | Op::Kill { .. }
        | Op::Pause { .. }
        | Op::Unpause { .. }
        | Op::Hook(_)
        | Op::Provide(_)
        | Op::Wait { .. } => palette.busy("~"),
    };
    let (cause, below) = match &step.cause {
        Cause::Changed(fields) => {
            ("changed".to_owned(), fields.iter().map(|f| format!("     {f}")).collect())
        }
        cause => (cause.to_string(), Vec::new()),
    };
    let mut lines = vec![format!(" {mark} {op}{:pad$}   {}", "", palette.faint(&cause))];
    lines.extend::<Vec<String>>(below);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::FieldChange;

    #[test]
    fn a_changed_field_stands_below_its_step() {
        let change = FieldChange {
            path: "services.web.environment.DEBUG".into(),
            from: Some("0".into()),
            to: Some("1".into()),
            place: None,
        };
        let op = Op::Start { project: "demo".into(), name: "demo-web-1".into() };
        let step = Step { op, needs: Vec::new(), optional: false, cause: Cause::Changed(vec![change]) };
        let plan = Plan { steps: vec![step], ..Plan::default() };
        assert_eq!(
            plan_lines(&plan, Palette { colour: false }),
            [" ~ start container demo-web-1   changed", "     services.web.environment.DEBUG: 0 -> 1"]
        );
    }
}
