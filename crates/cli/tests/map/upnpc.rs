//! The program under the name `upnpc`, beside that of Debian: the same command lines against
//! the same router, line by line.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Output;

use postern_lab::netns::Case;

use crate::home::{Home, POSTERN};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    as_upnpc_it_says_line_by_line_what_upnpc_says,
    as_upnpc_it_opens_pinholes_as_upnpc_does,
    as_upnpc_it_knows_a_gateway_that_is_not_connected,
    as_upnpc_without_a_gateway_it_says_so,
];

/// What Debian installs.
const THEIRS: &str = "/usr/bin/upnpc";
/// Where miniupnpd describes itself.
const URL: &str = "http://192.168.1.1:5000/rootDesc.xml";

/// Each against the router as those before have left it. `URL` stands for the address.
const LINES: &[&str] = &[
    // Found, and named.
    "-s",
    "-u URL -s",
    "-m eth0 -s",
    "-m 192.168.1.10 -l",
    "-m nowhere -s",
    "-t 2 -z 40000 -i -u URL -P",
    // Mappings.
    "-a @ 4000 4001 tcp 120",
    "-u URL -e some_words -a 192.168.1.10 4002 4003 UDP",
    "-u URL -l",
    "-u URL -L",
    "-u URL -n @ 6000 6001 tcp",
    "-u URL -n @ 80 80 tcp",
    "-u URL -r 5000 tcp 5001 5002 udp",
    "-u URL -a @ 4004 4004 tcp 100 45.45.1.2",
    "-u URL -a @ 4006 4006 tcp 45.45.1.2",
    "-u URL -l",
    "-u URL -L",
    "-u URL -d 4001 tcp",
    "-u URL -d 4001 tcp",
    "-u URL -d 4004 TCP 45.45.1.2",
    "-u URL -N 4000 5001 tcp",
    "-u URL -l",
    // What the router refuses, or takes for something else.
    "-u URL -a @ 80 80 tcp",
    "-u URL -a @ 1 0 tcp",
    "-u URL -a @ 70000 4009 tcp",
    "-u URL -a @ x 4010 tcp",
    "-u URL -a 192.168.1.11 4444 4444 tcp",
    "-u URL -d 70000 tcp",
    // What is wrong already here.
    "-u URL -a @ 4000 4001 sctp",
    "-u URL -d 4001 sctp",
    "-u URL -d 4001",
    "-u URL -r 5000",
    "-u URL -r",
    "-u URL -r x tcp",
    "-u URL -r 5005 tcp x",
    "-u URL -r 5000 sctp",
    "-u URL -n @ 1",
    "-u URL -N 1",
    "-u URL -x",
    "-u URL -4 -s",
    "-u URL words -sfoo",
    "-u http://192.168.1.1:5001/rootDesc.xml -s",
    "-a @ 1 2",
    "-z 5 -s",
    "-u",
    "-h",
    "--help",
    "",
];

const PINHOLES: &[&str] = &[
    "-6 -s",
    "-6 -S",
    "-6 -A 2a45:45:1::2 0 @ 4000 tcp 600",
    "-6 -C 1",
    "-6 -U 1 700",
    "-6 -K 1",
    "-6 -D 1 9",
    "-6 -U 1 700",
    "-6 -G 2a45:45:1::2 0 @ 4000 6",
    "-u URL -A 2a45:45:1::2 0 @ 4000 udp 600",
    "-u URL -A 2a45:45:1::2 0 @ 4000 sctp 600",
    "-u URL -S",
];

/// Runs every line against a router of its own; what each printed.
fn told(program: &Path, home: &Home, lines: &[&str]) -> Vec<(String, String, Option<i32>)> {
    let run = |line: &&str| {
        let mut command = home.world.command("alice", &program.display().to_string());
        let command = command.as_mut().unwrap();
        let line = line.replace("URL", URL);
        command.arg0("upnpc").args(line.split_whitespace());
        let Output {
            stdout,
            stderr,
            status,
        } = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (steady(&text(stdout)), refused(&text(stderr)), status.code())
    };
    lines.iter().map(run).collect()
}

/// Without what the time brings: how long the router runs, what has passed through it, how
/// much of a lease is left.
fn steady(text: &str) -> String {
    let line = |line: &str| -> String {
        let counted = line.starts_with("Bytes:") || line.starts_with("Packets:");
        let lease = line
            .get(..2)
            .is_some_and(|index| index.trim().parse::<u16>().is_ok());
        if counted || line.starts_with("  Time started :") {
            line.split(':').next().unwrap_or_default().to_owned()
        } else if let Some((before, after)) = line.split_once("uptime=") {
            let after = after.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{before}uptime={after}")
        } else if lease {
            line.rsplit_once(' ').unwrap_or_default().0.to_owned()
        } else if let Some((before, _)) = line.split_once("(duration=") {
            before.to_owned()
        } else {
            line.to_owned()
        }
    };
    let lines: Vec<String> = text.split('\n').map(line).collect();
    lines.join("\n")
}

/// The library prints what the system says of a connection; we do not.
fn refused(text: &str) -> String {
    text.replace("connect: Connection refused\n", "")
}

/// The same lines by the one and the other, each with a router of its own.
fn compare(make: impl Fn() -> Home + Sync, lines: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("upnpc");
    std::os::unix::fs::symlink(POSTERN, &ours).unwrap();
    let (expected, found) = std::thread::scope(|scope| {
        let theirs = scope.spawn(|| told(Path::new(THEIRS), &make(), lines));
        let ours = scope.spawn(|| told(&ours, &make(), lines));
        (theirs.join().unwrap(), ours.join().unwrap())
    });
    let mut wrong = Vec::new();
    for ((line, expected), found) in lines.iter().zip(expected).zip(found) {
        if expected != found {
            wrong.push(format!(
                "upnpc {line}\n  theirs {expected:?}\n  ours   {found:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn as_upnpc_it_says_line_by_line_what_upnpc_says() {
    compare(Home::with_router, LINES);
}

fn as_upnpc_it_opens_pinholes_as_upnpc_does() {
    compare(Home::with_router, PINHOLES);
}

fn as_upnpc_it_knows_a_gateway_that_is_not_connected() {
    let disconnected = || {
        let home = Home::with_router();
        home.world.ip("red", "link set wan down\n").unwrap();
        home
    };
    compare(disconnected, &["-s", "-i -s", "-u URL -s"]);
}

fn as_upnpc_without_a_gateway_it_says_so() {
    compare(Home::without_router, &["-s", "-u URL -s"]);
}
