//! What people see: the page and its drawing, and what changes while they watch.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use postern_lab::netns::Case;
use postern_lab::sim::Nat;

use crate::house::House;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    two_routers_are_drawn_with_what_passes_and_what_does_not,
    what_changes_is_said_line_by_line,
];

/// What Chromium shows of it, too.
fn two_routers_are_drawn_with_what_passes_and_what_does_not() {
    let mut house = House::behind_another();
    house.serve_with_both_addresses();
    house.run_gateway("red");
    let path = house.directory.path().join("report.html");
    house.check_on("alice", &["--report", &path.display().to_string()]);
    let page = fs::read_to_string(&path).unwrap();
    for hidden in [
        "192.168.1.1",
        "192.168.9.1",
        "45.45.2.2",
        "<script",
        "src=",
        "http:",
        "https:",
        "url(",
    ] {
        assert!(!page.contains(hidden), "{hidden}: {page}");
    }
    let picture = house.directory.path().join("report.png");
    let text = house.browse(&path, &picture);
    for shown in [
        "There are two routers in a row",
        "this machine</text>",
        "your router</text>",
        "another router</text>",
        "the internet</text>",
        "192.168.x.x</text>",
        "45.45.x.x</text>",
        ">UDP</text>",
        ">relay</text>",
        ">works</text>",
        ">kept out</text>",
        "exposed host",
    ] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let size = fs::metadata(&picture).unwrap().len();
    assert!(size > 5_000, "the picture has {size} bytes");
}

fn what_changes_is_said_line_by_line() {
    let house = House::behind(Nat::default());
    let mut command = house.command("alice", "check");
    command.args(["--server", &house.url, "--watch", "--every", "1"]);
    let mut watching = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut until = |wanted: &str| loop {
        let line = lines.next().unwrap().unwrap();
        if line.contains(wanted) {
            return line;
        }
    };
    let first = until("reached directly");
    assert!(!first.contains("UTC"), "{first}");
    let block = "table ip block {\nchain forward {\ntype filter hook forward priority -10\nmeta l4proto udp drop\n}\n}\n";
    house.world.nft("red", block).unwrap();
    let changed = until("UTC");
    assert!(changed.contains("over TCP only"), "{changed}");
    let changed = until("UDP: gets out, seen as 45.45.2.2 -> does not get out");
    assert!(changed.starts_with("     "), "{changed}");
    house.world.nft("red", "delete table ip block\n").unwrap();
    until("You can be reached directly from most networks.");
    until("UDP: does not get out -> gets out, seen as 45.45.2.2");
    watching.kill().unwrap();
    watching.wait().unwrap();
}
