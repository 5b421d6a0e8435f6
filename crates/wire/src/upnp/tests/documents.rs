use proptest::prelude::*;

use crate::transport::Transport;
use crate::upnp::description::{Description, DescriptionError, Device, MAX_VALUE, Service};
use crate::upnp::igd::{
    Entry, Key, Pinhole, Range, ServiceKind, ServiceType, listing_from_xml, listing_to_xml,
};
use crate::upnp::soap::{Arguments, Call, ErrorCode, Fault, Reply, SoapError};
use crate::upnp::xml::{Element, MAX_DEPTH, MAX_LEN, XmlError};

const WANIP: &str = "urn:schemas-upnp-org:service:WANIPConnection:1";

fn service(name: &str) -> Service {
    Service {
        service_type: format!("urn:schemas-upnp-org:service:{name}:1"),
        service_id: format!("urn:upnp-org:serviceId:{name}1"),
        scpd_url: "/scpd.xml".into(),
        control_url: format!("/ctl/{name}"),
        event_url: "/evt".into(),
    }
}

fn description() -> Description {
    let inner = Device {
        device_type: "urn:schemas-upnp-org:device:WANConnectionDevice:1".into(),
        services: vec![service("WANIPConnection"), service("WANPPPConnection")],
        ..Device::default()
    };
    Description {
        url_base: "http://192.168.1.1:80/".into(),
        device: Device {
            device_type: "urn:schemas-upnp-org:device:InternetGatewayDevice:1".into(),
            friendly_name: "A & B <router>".into(),
            manufacturer: "m".into(),
            model_name: "n".into(),
            model_number: "1".into(),
            udn: "uuid:1".into(),
            services: vec![service("Layer3Forwarding")],
            devices: vec![inner],
            ..Device::default()
        },
    }
}

fn entry() -> Entry {
    Entry {
        key: Key {
            remote_host: String::new(),
            external_port: 12345,
            transport: Transport::Tcp,
        },
        internal_port: 22,
        internal_client: "192.168.1.10".into(),
        enabled: true,
        description: "a <b> & 'c'".into(),
        lease: 3600,
    }
}

fn call() -> Call {
    Call {
        service: WANIP.into(),
        action: "AddPortMapping".into(),
        arguments: entry().to_arguments(),
    }
}

#[test]
fn documents_are_written_and_read_back() {
    let read = Description::parse(description().to_xml().as_bytes());
    assert_eq!(read, Ok(description()));
    let read = Call::parse(Some(&call().header()), call().to_xml().as_bytes());
    assert_eq!(read, Ok(call()));
    let done = Reply::Done(Arguments::default().with("NewExternalIPAddress", "198.51.100.1"));
    let fault = Reply::Fault(Fault::new(ErrorCode::CONFLICT_IN_MAPPING_ENTRY));
    for reply in [done, fault] {
        let read = Reply::parse(reply.to_xml(&call()).as_bytes());
        assert_eq!(read, Ok(reply));
    }
    let listing = listing_to_xml(&[entry(), entry()]);
    assert_eq!(listing_from_xml(&listing), Ok(vec![entry(), entry()]));
}

/// The envelope of UPnP Device Architecture 2.0 section 3.2.1.
#[test]
fn a_call_is_written_as_the_architecture_has_it() {
    let call = Call {
        service: WANIP.into(),
        action: "GetExternalIPAddress".into(),
        arguments: Arguments::default(),
    };
    assert_eq!(call.header(), format!("\"{WANIP}#GetExternalIPAddress\""));
    assert_eq!(
        call.to_xml(),
        "<?xml version=\"1.0\"?>\r\n\
         <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
         <u:GetExternalIPAddress xmlns:u=\"urn:schemas-upnp-org:service:WANIPConnection:1\">\
         </u:GetExternalIPAddress></s:Body></s:Envelope>\r\n"
    );
}

#[test]
fn arguments_come_in_the_order_of_the_specification() {
    let arguments = entry().to_arguments();
    let names: Vec<_> = arguments.iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "NewRemoteHost",
            "NewExternalPort",
            "NewProtocol",
            "NewInternalPort",
            "NewInternalClient",
            "NewEnabled",
            "NewPortMappingDescription",
            "NewLeaseDuration"
        ]
    );
    assert_eq!(arguments.get("newprotocol"), Some("TCP"));
}

#[test]
fn a_document_cut_short_is_closed_or_refused_and_never_half_believed() {
    let xml = call().to_xml();
    for length in 0..xml.trim_end().len() {
        if let Ok(read) = Call::parse(Some(&call().header()), &xml.as_bytes()[..length]) {
            let whole = call().arguments;
            let prefix = read.arguments.iter().zip(whole.iter());
            for ((name, value), (whole_name, whole_value)) in prefix {
                assert_eq!(name, whole_name);
                assert!(whole_value.starts_with(value), "{value} of {whole_value}");
            }
        }
    }
    assert_eq!(
        Description::parse(b"<root></root>"),
        Err(DescriptionError::NoDevice)
    );
}

#[test]
fn header_and_body_must_name_the_same_action() {
    let body = call().to_xml();
    let other = format!("\"{WANIP}#DeletePortMapping\"");
    for header in [other.as_str(), "", "#AddPortMapping"] {
        let read = Call::parse(Some(header), body.as_bytes());
        assert_eq!(read, Err(SoapError::Disagree), "{header}");
    }
    let bare = format!("{WANIP}#AddPortMapping");
    assert!(Call::parse(Some(&bare), body.as_bytes()).is_ok());
    assert!(Call::parse(None, body.as_bytes()).is_ok());
}

#[test]
fn what_gateways_do_to_xml_is_repaired() {
    for body in [
        "<u:AResponse><NewX>1</NewX></u:AResponse>",
        "<s:Envelope><s:Body><m:AResponse xmlns:m=\"x\"><NewX>1</NewX></m:AResponse></s:Body></s:Envelope>",
        "\u{feff}junk<?xml version=\"1.0\"?><Envelope><Body><AResponse><NewX>1</NewX></AResponse></Body></Envelope>\0\0",
        "<Envelope><BODY><AResponsexmlns=\"x\"><newx>1</NewX></AResponse></BODY></Envelope>",
        "<Envelope><Body><AResponse><NewX> 1 </NewX><NewY>a & b</NewY>",
        "<Envelope><Body><AResponse><NewX>1</NewX></AResponse></Body></Envelope><more/>",
    ] {
        let Ok(Reply::Done(arguments)) = Reply::parse(body.as_bytes()) else {
            panic!("{body}: {:?}", Reply::parse(body.as_bytes()));
        };
        assert_eq!(arguments.get("NewX"), Some("1"), "{body}");
    }
}

#[test]
fn faults_are_found_wherever_they_are() {
    for body in [
        Fault::new(ErrorCode(718)).to_xml(),
        "<s:Envelope><s:Body><s:Fault><detail><UPnPErrorxmlns=\"x\"><errorCode>718</errorCode>\
         <errorDescription>ConflictInMappingEntry</errorDescription></UPnPError>"
            .into(),
        "<UPnPError><errorcode> 718 </errorcode><errorDescription>ConflictInMappingEntry\
         </errorDescription></UPnPError>"
            .into(),
    ] {
        let Ok(Reply::Fault(fault)) = Reply::parse(body.as_bytes()) else {
            panic!("{body}");
        };
        assert_eq!(fault.code, ErrorCode::CONFLICT_IN_MAPPING_ENTRY);
        assert_eq!(fault.description, "ConflictInMappingEntry");
    }
    let vague = "<Envelope><Body><Fault><faultstring>Invalid SOAP Packet!</faultstring></Fault></Body></Envelope>";
    let Ok(Reply::Fault(fault)) = Reply::parse(vague.as_bytes()) else {
        panic!("{vague}");
    };
    assert_eq!(fault.code, ErrorCode::NONE);
    assert_eq!(fault.description, "Invalid SOAP Packet!");
}

#[test]
fn hostile_documents_are_refused() {
    let deep = "<a>".repeat(MAX_DEPTH + 1);
    assert_eq!(Element::parse(deep.as_bytes()), Err(XmlError::TooDeep));
    let hidden = "<a b='/>'>".repeat(9_000) + &"</a>".repeat(9_000);
    assert_eq!(Element::parse(hidden.as_bytes()), Err(XmlError::TooDeep));
    let bomb = "<!DOCTYPE x [<!ENTITY a \"b\">]><x>&a;</x>";
    assert_eq!(Element::parse(bomb.as_bytes()), Err(XmlError::Doctype));
    let long = " ".repeat(MAX_LEN + 1);
    assert_eq!(Element::parse(long.as_bytes()), Err(XmlError::TooLong));
    let many = format!("<a>{}</a>", "<b/>".repeat(40_000));
    assert_eq!(Element::parse(many.as_bytes()), Err(XmlError::TooMany));
    for nothing in ["", "<", ">", "text", "<>", "</a>", "<!-- -->"] {
        let read = Element::parse(nothing.as_bytes());
        assert_eq!(read, Err(XmlError::Malformed), "{nothing}");
    }
    let arguments = "<b/>".repeat(33);
    let many = format!("<Envelope><Body><A>{arguments}</A></Body></Envelope>");
    assert_eq!(
        Call::parse(None, many.as_bytes()),
        Err(SoapError::TooManyArguments)
    );
}

#[test]
fn values_services_and_devices_are_bounded() {
    let mut long = description();
    long.device.friendly_name = "x".repeat(MAX_VALUE + 1);
    let read = Description::parse(long.to_xml().as_bytes()).unwrap();
    assert_eq!(read.device.friendly_name.len(), MAX_VALUE);
    let mut wide = description();
    wide.device.services = vec![service("a"); 65];
    let read = Description::parse(wide.to_xml().as_bytes());
    assert_eq!(read, Err(DescriptionError::TooMany));
    let mut many = description();
    many.device.devices = vec![Device::default(); 32];
    let read = Description::parse(many.to_xml().as_bytes());
    assert_eq!(read, Err(DescriptionError::TooMany));
}

#[test]
fn urls_start_at_urlbase_or_at_the_description() {
    let location = "http://192.168.1.1:5000/d/root.xml".parse().unwrap();
    let with_base = description().resolve(&location, "ctl").unwrap();
    assert_eq!(with_base.to_string(), "http://192.168.1.1:80/ctl");
    let without = Description {
        url_base: "nonsense".into(),
        ..description()
    };
    let url = without.resolve(&location, "ctl").unwrap();
    assert_eq!(url.to_string(), "http://192.168.1.1:5000/d/ctl");
}

#[test]
fn services_are_known_in_any_case_and_of_any_vendor() {
    for (urn, kind, version) in [
        (WANIP, ServiceKind::WanIp, 1),
        (
            "URN:Schemas-UPnP-Org:Service:WanIpConnection:2",
            ServiceKind::WanIp,
            2,
        ),
        (
            "urn:dslforum-org:service:WANPPPConnection:1",
            ServiceKind::WanPpp,
            1,
        ),
        (
            "urn:x:service:WANIPv6FirewallControl",
            ServiceKind::Ipv6Firewall,
            1,
        ),
    ] {
        assert_eq!(urn.parse(), Ok(ServiceType { kind, version }), "{urn}");
    }
    for urn in ["", "WANIPConnection:1", "urn:x:service:Layer3Forwarding:1"] {
        assert!(urn.parse::<ServiceType>().is_err(), "{urn}");
    }
    let wanip: ServiceType = WANIP.parse().unwrap();
    assert_eq!(wanip.to_string(), WANIP);
}

/// The arguments of a mapping with one of them changed, or left out.
fn changed(name: &str, value: Option<&str>) -> Arguments {
    let mut arguments = Arguments::default();
    for (known, old) in entry().to_arguments().iter() {
        match value {
            _ if known != name => arguments = arguments.with(known, old),
            Some(value) => arguments = arguments.with(known, value),
            None => {}
        }
    }
    arguments
}

#[test]
fn a_caller_is_read_strictly() {
    assert_eq!(Entry::from_call(&entry().to_arguments()), Ok(entry()));
    for (name, value) in [
        ("NewExternalPort", "-1"),
        ("NewExternalPort", "4010x"),
        ("NewExternalPort", "65536"),
        ("NewInternalPort", "+1"),
        ("NewProtocol", "tcp"),
        ("NewProtocol", "SCTP"),
        ("NewProtocol", ""),
        ("NewEnabled", "maybe"),
        ("NewLeaseDuration", "4294967296"),
    ] {
        assert_eq!(
            Entry::from_call(&changed(name, Some(value))),
            Err(ErrorCode::ARGUMENT_VALUE_INVALID),
            "{name} {value}"
        );
        assert_eq!(
            Entry::from_call(&changed(name, None)),
            Err(ErrorCode::INVALID_ARGS)
        );
    }
}

#[test]
fn a_gateway_is_read_tolerantly() {
    assert_eq!(Entry::from_answer(&entry().to_arguments()), Some(entry()));
    let answer = entry().to_specific_answer();
    let read = Entry::from_specific_answer(entry().key, &answer);
    assert_eq!(read, Some(entry()));
    let lower = changed("NewProtocol", Some(" tcp"));
    assert_eq!(Entry::from_answer(&lower), Some(entry()));
    let no_lease = Entry::from_answer(&changed("NewLeaseDuration", None)).unwrap();
    assert_eq!(no_lease.lease, 0);
    assert_eq!(Entry::from_answer(&changed("NewExternalPort", None)), None);
}

#[test]
fn ranges_and_pinholes_are_written_and_read_back() {
    let range = Range {
        start: 1,
        end: 9,
        transport: Transport::Udp,
        manage: false,
    };
    assert_eq!(Range::from_call(&range.to_arguments()), Ok(range.clone()));
    let backwards = Range { start: 10, ..range };
    assert_eq!(
        Range::from_call(&backwards.to_arguments()),
        Err(ErrorCode::INCONSISTENT_PARAMETERS)
    );
    let pinhole = Pinhole {
        remote_host: String::new(),
        remote_port: 0,
        internal_client: "fd77::10".into(),
        internal_port: 22,
        protocol: 6,
        lease: 3600,
    };
    assert_eq!(Pinhole::from_call(&pinhole.to_arguments()), Ok(pinhole));
    let missing = Pinhole::from_call(&Arguments::default());
    assert_eq!(missing, Err(ErrorCode::INVALID_ARGS));
}

proptest! {
    #[test]
    fn any_description_of_a_mapping_comes_back(description in any::<String>()) {
        let entry = Entry { description, ..entry() };
        let call = Call { arguments: entry.to_arguments(), ..call() };
        let read = Call::parse(None, call.to_xml().as_bytes()).unwrap();
        let read = Entry::from_call(&read.arguments).unwrap();
        let shown = |c: char| if matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}') { '\u{fffd}' } else { c };
        let expected: String = entry.description.chars().map(shown).collect();
        prop_assert_eq!(read.description, expected.trim());
    }

    #[test]
    fn no_text_makes_it_panic(text in "[<>/a-c:!?&;#x0-9 =\"'\\[\\]-]{0,80}", any in any::<String>()) {
        for text in [&text, &any, &format!("<a>{text}</a>")] {
            _ = Element::parse(text.as_bytes());
            _ = Description::parse(text.as_bytes());
            _ = Call::parse(Some(text), text.as_bytes());
            _ = Reply::parse(text.as_bytes());
            _ = listing_from_xml(text);
            _ = text.parse::<ServiceType>();
        }
    }
}
