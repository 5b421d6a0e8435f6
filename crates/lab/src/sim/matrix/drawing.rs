//! The table as a picture.

use super::Figures;
use std::fmt::Write;

const CELL: (usize, usize) = (104, 46);
const MARGIN: (usize, usize) = (120, 92);
const LEGEND: [(&str, &str, &str); 6] = [
    ("host", "#7fbf7f", "host"),
    ("reflexive", "#8fd08f", "plain ICE"),
    ("peer_reflexive", "#8fd08f", ""),
    ("predicted", "#8fbfe8", "predicted port"),
    ("birthday", "#c9b3e6", "birthday"),
    ("relay", "#dddddd", "relayed"),
];

/// Draws cells as an SVG table: one row for each left NAT and one column for each right one, in the
/// order in which they come first. `caption` says how it was measured.
#[must_use]
pub fn svg(cells: &[Figures], caption: &str) -> String {
    let rows = names(cells, |cell| &cell.left);
    let columns = names(cells, |cell| &cell.right);
    let width = MARGIN.0 + columns.len() * CELL.0 + 10;
    let height = MARGIN.1 + rows.len() * CELL.1 + 40;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    text(
        &mut out,
        (8, 18),
        13,
        "Two peers behind two NATs: how they connect",
    );
    text(&mut out, (8, 34), 11, caption);
    legend(&mut out);
    for (x, name) in columns.iter().enumerate() {
        text(
            &mut out,
            (MARGIN.0 + x * CELL.0 + 6, MARGIN.1 - 6),
            12,
            name,
        );
    }
    for (y, name) in rows.iter().enumerate() {
        let middle = MARGIN.1 + y * CELL.1 + CELL.1 / 2;
        text(&mut out, (8, middle + 4), 12, name);
    }
    for cell in cells {
        let x = columns.iter().position(|name| *name == cell.right);
        let y = rows.iter().position(|name| *name == cell.left);
        if let (Some(x), Some(y)) = (x, y) {
            draw(
                &mut out,
                (MARGIN.0 + x * CELL.0, MARGIN.1 + y * CELL.1),
                cell,
            );
        }
    }
    out.push_str("</svg>\n");
    out
}

fn names(cells: &[Figures], which: fn(&Figures) -> &String) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for cell in cells {
        if !names.contains(&which(cell).as_str()) {
            names.push(which(cell));
        }
    }
    names
}

fn legend(out: &mut String) {
    let mut x = 8;
    for (_, colour, name) in LEGEND.iter().filter(|(_, _, name)| !name.is_empty()) {
        rectangle(out, (x, 44), (14, 14), colour);
        text(out, (x + 19, 55), 11, name);
        x += 110;
    }
}

fn draw(out: &mut String, (x, y): (usize, usize), cell: &Figures) {
    let entry = LEGEND.iter().find(|(name, _, _)| *name == cell.technique);
    rectangle(
        out,
        (x + 1, y + 1),
        (CELL.0 - 2, CELL.1 - 2),
        entry.map_or("white", |e| e.1),
    );
    let rate = format!("{:.1} % direct", cell.rate * 100.0);
    text(out, (x + 6, y + 14), 11, &rate);
    if let Some(median) = cell.median_ms.filter(|_| cell.technique != "relay") {
        let p99 = cell.p99_ms.unwrap_or(median);
        text(
            out,
            (x + 6, y + 27),
            10,
            &format!("{median:.0} ms, 99 %: {p99:.0}"),
        );
    }
    let packets = format!("≤ {} packets", cell.most_datagrams);
    text(out, (x + 6, y + 40), 10, &packets);
}

fn rectangle(out: &mut String, (x, y): (usize, usize), (w, h): (usize, usize), fill: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{h}\" fill=\"{fill}\"/>"
    );
}

fn text(out: &mut String, (x, y): (usize, usize), size: usize, content: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\">{content}</text>"
    );
}
