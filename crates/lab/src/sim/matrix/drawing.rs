//! The table as a picture.

use super::situations::kinds;
use super::{End, Figures};
use std::fmt::Write;

const CELL: (usize, usize) = (136, 46);
const MARGIN: (usize, usize) = (90, 92);
/// Rows of the table of [`kinds`].
const ROWS: usize = 9;
/// Those that are not in it are below, so many in a row, under their names.
const PER_LINE: usize = 5;
const SLOT: (usize, usize) = (262, 70);
const LEGEND: [(End, &str, &str); 7] = [
    (End::Plain, "#8fd08f", "plain ICE"),
    (End::Predicted, "#8fbfe8", "predicted port"),
    (End::Birthday, "#c9b3e6", "birthday"),
    (End::Asymmetric, "#e6b3cf", "a port each way"),
    (End::Tcp, "#f2d08f", "TCP"),
    (End::Relayed, "#dddddd", "relayed"),
    (End::Apart, "#dddddd", ""),
];

/// Draws cells as an SVG table, the pairs of [`kinds`] with a row for each left NAT and a column for
/// each right one, and the others below. `caption` says how it was measured.
#[must_use]
pub fn svg(cells: &[Figures], caption: &str) -> String {
    let names = kinds().map(|kind| kind.name);
    let place = |name: &str| names.iter().position(|known| *known == name);
    let in_table = |cell: &&Figures| place(&cell.left).zip(place(&cell.right)).is_some();
    let (table, others): (Vec<&Figures>, Vec<_>) = cells.iter().partition(in_table);
    let below = MARGIN.1 + ROWS * CELL.1 + 20;
    let width = MARGIN.0 + ROWS * CELL.0 + 10;
    let height = below + others.len().div_ceil(PER_LINE) * SLOT.1 + 10;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = "Two peers behind two NATs: how they connect";
    text(&mut out, (8, 18), 13, title);
    text(&mut out, (8, 34), 11, caption);
    legend(&mut out);
    for (index, name) in names.iter().enumerate() {
        let column = (MARGIN.0 + index * CELL.0 + 6, MARGIN.1 - 6);
        text(&mut out, column, 12, name);
        let row = (8, MARGIN.1 + index * CELL.1 + CELL.1 / 2 + 4);
        text(&mut out, row, 12, name);
    }
    for cell in table {
        let (y, x) = (place(&cell.left), place(&cell.right));
        let (x, y) = (x.unwrap_or(0), y.unwrap_or(0));
        let corner = (MARGIN.0 + x * CELL.0, MARGIN.1 + y * CELL.1);
        draw(&mut out, corner, cell);
    }
    for (index, cell) in others.iter().enumerate() {
        let (x, y) = (index % PER_LINE, index / PER_LINE);
        let corner = (8 + x * SLOT.0, below + y * SLOT.1);
        let name = format!("{} × {}", cell.left, cell.right);
        text(&mut out, (corner.0 + 2, corner.1 + 11), 12, &name);
        draw(&mut out, (corner.0, corner.1 + 14), cell);
    }
    out.push_str("</svg>\n");
    out
}

fn legend(out: &mut String) {
    let mut x = 8;
    for (_, colour, name) in LEGEND.iter().filter(|entry| !entry.2.is_empty()) {
        rectangle(out, (x, 44), (14, 14), colour);
        text(out, (x + 19, 55), 11, name);
        x += 110;
    }
}

fn draw(out: &mut String, (x, y): (usize, usize), cell: &Figures) {
    let entry = LEGEND.iter().find(|(end, _, _)| *end == cell.end);
    let fill = entry.map_or("white", |entry| entry.1);
    rectangle(out, (x + 1, y + 1), (CELL.0 - 2, CELL.1 - 2), fill);
    let rate = format!("{:.1} % direct", cell.rate * 100.0);
    text(out, (x + 6, y + 14), 11, &rate);
    if let Some(median) = cell.median_ms.filter(|_| cell.end.is_direct()) {
        let p99 = cell.p99_ms.unwrap_or(median);
        let times = format!("{median:.0} ms, 99 %: {p99:.0} ms");
        text(out, (x + 6, y + 27), 10, &times);
    }
    if let Some(median) = cell.relayed_ms.filter(|_| !cell.end.is_direct()) {
        text(
            out,
            (x + 6, y + 27),
            10,
            &format!("relayed after {median:.0} ms"),
        );
    }
    let sockets = match cell.most_sockets {
        0 => String::new(),
        some => format!(", {some} sockets"),
    };
    let packets = format!("≤ {} sent{sockets}", cell.most_datagrams);
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
