//! The graph as a picture: dependents above what they need, a row for each distance from the top.

use std::fmt::Write as _;

use super::Need;

const WIDTH: usize = 150;
const HEIGHT: usize = 36;
const ACROSS: usize = 30;
const DOWN: usize = 60;
const MARGIN: usize = 20;

/// The row of each service: one below the lowest that needs it.
pub(super) fn rows(services: &[&str], needs: &[Need<'_>]) -> Vec<usize> {
    let number = |name: &str| services.iter().position(|other| *other == name);
    let arrows: Vec<(usize, usize)> =
        needs.iter().filter_map(|need| Some((number(need.from)?, number(need.to)?))).collect();
    let mut rows = vec![0; services.len()];
    // The longest way has fewer steps than there are services; mostly very few rounds are enough.
    for _ in 0..services.len() {
        let mut moved = false;
        for &(from, to) in &arrows {
            if rows[to] <= rows[from] {
                rows[to] = rows[from] + 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    rows
}

pub(super) fn svg(services: &[&str], needs: &[Need<'_>]) -> String {
    let rows = rows(services, needs);
    let column = |at: usize| rows[..at].iter().filter(|row| **row == rows[at]).count();
    let place = |at: usize| (MARGIN + column(at) * (WIDTH + ACROSS), MARGIN + rows[at] * (HEIGHT + DOWN));
    let places: Vec<_> = (0..services.len()).map(place).collect();
    let right = places.iter().map(|(x, _)| x + WIDTH).max().unwrap_or_default() + MARGIN;
    let bottom = places.iter().map(|(_, y)| y + HEIGHT).max().unwrap_or_default() + MARGIN;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {right} {bottom}\" \
         font-family=\"sans-serif\" font-size=\"14\">\n{HEAD}"
    );
    for need in needs {
        let find = |name: &str| services.iter().position(|other| *other == name).map(|at| places[at]);
        if let (Some(from), Some(to)) = (find(need.from), find(need.to)) {
            arrow(&mut out, from, to, need);
        }
    }
    for (name, (x, y)) in services.iter().zip(&places) {
        let (text_x, text_y) = (x + WIDTH / 2, y + HEIGHT / 2 + 5);
        let _ = writeln!(
            out,
            "  <rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\n  \
             <text x=\"{text_x}\" y=\"{text_y}\">{}</text>",
            shortened(name)
        );
    }
    out + "</svg>\n"
}

const HEAD: &str = "  <style>rect{fill:#eef3fb;stroke:#4a6fa5}text{text-anchor:middle}\
.need{fill:none;stroke:#555;marker-end:url(#tip)}.optional{stroke-dasharray:5 4}.label{font-size:11px;fill:#555}</style>\n  \
<defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
<path d=\"M0 0 8 4 0 8z\" fill=\"#555\"/></marker></defs>\n";

/// From the bottom of one box to the top of the other.
fn arrow(out: &mut String, from: (usize, usize), to: (usize, usize), need: &Need<'_>) {
    let (x1, y1) = (from.0 + WIDTH / 2, from.1 + HEIGHT);
    let (x2, y2) = (to.0 + WIDTH / 2, to.1);
    let middle = usize::midpoint(y1, y2);
    let class = if need.required { "need" } else { "need optional" };
    let _ =
        writeln!(out, "  <path class=\"{class}\" d=\"M{x1} {y1}C{x1} {middle} {x2} {middle} {x2} {y2}\"/>");
    if !need.label.is_empty() {
        let x = usize::midpoint(x1, x2);
        let _ = writeln!(out, "  <text class=\"label\" x=\"{x}\" y=\"{middle}\">{}</text>", need.label);
    }
}

/// As much of a name as its box holds. Names of services have no sign that XML would take for its own.
fn shortened(name: &str) -> String {
    const MOST: usize = 17;
    if name.chars().count() <= MOST {
        return name.to_owned();
    }
    name.chars().take(MOST - 1).chain(['…']).collect()
}
