//! What the operator of the router sees and does.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use postern_lab::netns::Case;
use postern_wire::pcp::{Options, ResultCode};

use crate::house::{ALICE, EVERYWHERE, House, LIMIT, NOWHERE, OUTSIDE, Tcp, URL, Udp, map};

pub(crate) const CASES: &[Case] = postern_lab::cases![
    leases_are_listed_and_taken_back,
    a_description_cannot_write_on_the_operators_screen,
    rules_are_printed_and_not_made,
    a_file_says_who_may_map_what,
    a_file_is_read_again_when_it_is_said,
    nobody_answers_where_no_gateway_runs,
    a_firewall_that_drops_what_is_mapped_is_named,
];

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

fn leases_are_listed_and_taken_back() {
    let house = House::new();
    house.pcp(map(Tcp, 4000, 4001), 600, Options::default());
    house.pcp(map(Udp, 4000, 4001), 600, Options::default());
    assert_eq!(house.reached_from(Tcp, 4001, 4000), EVERYWHERE);
    let status = &house.ask_json(&["status"])[0];
    assert_eq!(status["event"], "status");
    assert_eq!(status["external_address"], OUTSIDE.to_string());
    assert_eq!(
        (&status["leases"], &status["double_nat"]),
        (&2.into(), &false.into())
    );
    let listed = house.ask_json(&["list"]);
    assert_eq!(listed[0]["flows"], 3, "{listed:?}");
    let lines = text(house.ask(&["list"]).stdout);
    assert_eq!(lines.lines().count(), 2, "{lines:?}");
    assert!(
        lines.contains("pcp tcp 4001 -> 192.168.1.10:4000"),
        "{lines}"
    );

    let id = listed[0]["id"].to_string();
    assert_eq!(house.ask_json(&["revoke", &id])[0]["count"], 1);
    assert_eq!(house.reached_from(Tcp, 4001, 4000), NOWHERE);
    assert_eq!(house.reached_from(Udp, 4001, 4000), EVERYWHERE);
    let again = house.ask(&["revoke", &id]);
    assert_eq!(again.status.code(), Some(1));
    assert!(text(again.stderr).contains("no lease of this number"));
    assert_eq!(house.ask_json(&["flush"])[0]["count"], 1);
    assert_eq!(house.reached_from(Udp, 4001, 4000), NOWHERE);
    assert_eq!(text(house.ask(&["list"]).stdout), "No leases.\n");
}

fn a_description_cannot_write_on_the_operators_screen() {
    let house = House::new();
    let mut command = house.world.command("alice", "upnpc").unwrap();
    let evil = "\u{1b}[2Jx\nTCP:4022:192.168.1.11:4022:1999999999:evil";
    let alice = ALICE.to_string();
    command.args([
        "-m", "eth0", "-e", evil, "-a", &alice, "4000", "4001", "tcp",
    ]);
    command.output().unwrap();
    let lines = text(house.ask(&["list"]).stdout);
    assert_eq!(lines.lines().count(), house.ask_json(&["list"]).len());
    assert!(!lines.contains('\u{1b}'), "{lines:?}");
}

fn rules_are_printed_and_not_made() {
    let house = House::without_gateway();
    let mut command = house.postern();
    command.args(["--wan", "wan", "--lan", "lan", "--print-rules"]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    let rules = text(output.stdout);
    assert!(
        rules.contains("dnat ip to ip daddr . tcp dport map @tcp4"),
        "{rules}"
    );
    let listed = house.run("router", "nft", "list tables");
    assert!(!listed.contains("postern"), "{listed}");
}

fn a_file_says_who_may_map_what() {
    let mut house = House::without_gateway();
    let file = house.path("gateway.toml");
    let rules = "[[rule]]\naction = \"allow\"\nhost = \"192.168.1.10\"\nexternal-ports = \"80\"\n\
                 [[rule]]\naction = \"deny\"\n";
    std::fs::write(&file, rules).unwrap();
    house.start(&["--config", file.to_str().unwrap()]);
    let upnpc = |host, words| house.try_run(host, "upnpc", &format!("{URL} {words}")).1;
    let said = upnpc("alice", "-a 192.168.1.10 8080 80 tcp 600");
    assert!(said.contains("is redirected"), "{said}");
    let said = upnpc("alice", "-a 192.168.1.10 8080 4000 tcp 600");
    assert!(said.contains("606"), "{said}");
    let said = upnpc("carol", "-a 192.168.1.11 8080 80 udp 600");
    assert!(said.contains("606"), "{said}");
    assert_eq!(house.reached_from(Tcp, 80, 8080), EVERYWHERE);
}

fn nobody_answers_where_no_gateway_runs() {
    let house = House::without_gateway();
    let output = house.ask(&["status"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(output.stderr).contains("is it running?"));
    let mut command = house.postern();
    let output = command.args(["--wan", "wan"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

fn a_file_is_read_again_when_it_is_said() {
    let mut house = House::without_gateway();
    let file = house.path("gateway.toml");
    std::fs::write(&file, "[[rule]]\naction = \"deny\"\n").unwrap();
    house.start(&["--config", file.to_str().unwrap()]);
    let gateway = house.gateway.as_ref().unwrap().id();
    let hang_up = || kill(Pid::from_raw(gateway.try_into().unwrap()), Signal::SIGHUP).unwrap();
    let granted = || {
        let answer = house.pcp(map(Tcp, 4000, 4001), 600, Options::default());
        answer.result == ResultCode::SUCCESS
    };
    assert!(!granted());
    std::fs::write(&file, "").unwrap();
    hang_up();
    let begin = Instant::now();
    while !granted() {
        assert!(begin.elapsed() < LIMIT);
    }
    assert_eq!(house.reached_from(Tcp, 4001, 4000), EVERYWHERE);
    // What makes no sense changes nothing.
    std::fs::write(&file, "wan = 7").unwrap();
    hang_up();
    assert_eq!(house.ask_json(&["list"]).len(), 1);
    assert!(granted());
}

fn a_firewall_that_drops_what_is_mapped_is_named() {
    let mut house = House::without_gateway();
    for end in ["policy drop;", "policy accept; counter reject"] {
        let rules = format!(
            "table inet strict {{\n chain forward {{\n type filter hook forward priority 0; \
             {};\n ct state established,related accept\n iifname \"lan\" accept\n {}\n }}\n}}\n",
            end.split(';').next().unwrap(),
            end.split(';').next_back().unwrap(),
        );
        house.world.nft("router", &rules).unwrap();
        assert_eq!(
            house.start(&[])["obstacles"],
            serde_json::json!(["inet strict forward"])
        );
        let lines = text(house.ask(&["status"]).stdout);
        assert!(lines.contains("Dropped by: inet strict forward"), "{lines}");
        house.pcp(map(Tcp, 4000, 4001), 600, Options::default());
        assert_eq!(house.reached_from(Tcp, 4001, 4000), [false, false, true]);

        // The rule of docs/gateway.md.
        let rule = "insert rule inet strict forward meta mark & 0x01000000 == 0x01000000 accept\n";
        house.world.nft("router", rule).unwrap();
        assert_eq!(house.reached_from(Tcp, 4001, 4000), EVERYWHERE);
        let begin = Instant::now();
        while house.ask_json(&["status"])[0]["obstacles"] != serde_json::json!([]) {
            assert!(begin.elapsed() < LIMIT);
        }
        house
            .world
            .nft("router", "delete table inet strict\n")
            .unwrap();
        house.gateway = None;
    }
}
