//! The server with two addresses, and clients of other make: pystun3, in Python, which speaks
//! RFC 3489, and coturn's of RFC 5780.

use std::path::Path;
use std::process::{Command, Stdio};

use postern_lab::netns::{Case, Home, Topology};
use postern_lab::sim::{Filtering, Mapping, Nat};

use crate::house::House;
use crate::table::all;

pub(crate) const CASES: &[Case] = postern_lab::cases![
    pystun3_tells_the_kind_of_every_nat_with_our_server,
    coturns_client_tells_every_mapping_and_filtering_with_our_server,
];

/// Where `scripts/setup` puts packages of Python.
const INSTALLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/python");

const ASK: &str =
    "import stun, sys; print(stun.get_ip_info(sys.argv[1], 54320, sys.argv[2], 3478))";

fn python(command: &mut Command) -> &mut Command {
    command.env("PYTHONPATH", INSTALLED).stdin(Stdio::null())
}

/// Whether the package is there; if it was installed and does not work, that is an error.
fn is_installed() -> bool {
    let mut command = Command::new("python3");
    let output = python(&mut command).args(["-c", "import stun"]).output();
    if output.is_ok_and(|output| output.status.success()) {
        return true;
    }
    let there = Path::new(INSTALLED).join("stun").exists();
    assert!(!there, "pystun3 is installed and does not work");
    false
}

fn pystun3_tells_the_kind_of_every_nat_with_our_server() {
    if !is_installed() {
        eprintln!("skipped: pystun3 is not installed (scripts/setup)");
        return;
    }
    let independent = |filtering| Nat::new(Mapping::EndpointIndependent, filtering);
    let strict = |mapping| Nat::new(mapping, Filtering::AddressAndPortDependent);
    // The words are those of RFC 3489.
    let rows = vec![
        (
            "alice",
            independent(Filtering::EndpointIndependent),
            "Full Cone",
        ),
        (
            "alice",
            independent(Filtering::AddressDependent),
            "Restric NAT",
        ),
        (
            "alice",
            independent(Filtering::AddressAndPortDependent),
            "Restric Port NAT",
        ),
        ("alice", strict(Mapping::AddressDependent), "Symmetric NAT"),
        (
            "alice",
            strict(Mapping::AddressAndPortDependent),
            "Symmetric NAT",
        ),
        ("other", Nat::default(), "Open Internet"),
    ];
    all(rows, |(host, nat, kind)| ask(host, nat, kind));
}

fn ask(host: &str, nat: Nat, kind: &str) -> Result<(), String> {
    let house = House::new(Topology {
        homes: vec![Home::new("red", &["alice"], 1, nat)],
        ..Topology::default()
    });
    let own = house.addresses(host)[0].clone();
    let server = house.addresses("server")[0].clone();
    let told = said(&house, host, "python3", &["-c", ASK, &own, &server]);
    match told.starts_with(&format!("('{kind}', ")) {
        true => Ok(()),
        false => Err(format!("{nat:?}: {told}, not {kind}")),
    }
}

/// What a program says on a host, and after that what it complains about.
fn said(house: &House, host: &str, program: &str, arguments: &[&str]) -> String {
    let mut command = house.world.command(host, program).unwrap();
    let output = python(&mut command).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} (scripts/setup)"));
    let parts = [output.stdout, output.stderr];
    parts
        .map(|part| String::from_utf8_lossy(&part).into_owned())
        .concat()
}

fn coturns_client_tells_every_mapping_and_filtering_with_our_server() {
    let rows = Mapping::ALL.map(|mapping| Filtering::ALL.map(|filtering| (mapping, filtering)));
    all(rows.concat(), |(mapping, filtering)| {
        discover(mapping, filtering)
    });
}

fn discover(mapping: Mapping, filtering: Filtering) -> Result<(), String> {
    let house = House::new(Topology {
        homes: vec![Home::new(
            "red",
            &["alice"],
            1,
            Nat::new(mapping, filtering),
        )],
        ..Topology::default()
    });
    let server = house.addresses("server")[0].clone();
    let arguments = ["-m", "-f", "-p", "3478", &server];
    let told = said(&house, "alice", "turnutils_natdiscovery", &arguments);
    // Its third request goes to the first address again, not to the second: it cannot tell the
    // last two apart.
    let mapping = match mapping {
        Mapping::EndpointIndependent => "Endpoint Independent",
        Mapping::AddressDependent | Mapping::AddressAndPortDependent => {
            "Address and Port Dependent"
        }
    };
    let filtering = match filtering {
        Filtering::EndpointIndependent => "Endpoint Independent",
        Filtering::AddressDependent => "Address Dependent",
        Filtering::AddressAndPortDependent => "Address and Port Dependent",
    };
    let expected = [
        format!("NAT with {mapping} Mapping!"),
        format!("NAT with {filtering} Filtering!"),
    ];
    let missing = expected.iter().find(|words| !told.contains(*words));
    missing.map_or(Ok(()), |words| Err(format!("{words}: {told}")))
}
