//! Answers that lie, and random ones.

use proptest::prelude::*;

use super::*;

#[test]
fn unsigned_answers_to_signed_requests_do_not_count() {
    let mut world = World::new(Auth::Sha256, config());
    world.server.unsigned = true;
    world.run(secs(60));
    assert_eq!(world.failure(), Some(Failure::TimedOut));
}

#[test]
fn answers_from_elsewhere_are_not_ours() {
    let mut world = World::allocated();
    let datagram = Datagram {
        local: at(LOCAL),
        remote: at("192.0.2.99:3478"),
        payload: &channel_data(0x4000, b"x"),
    };
    let verdict = world.client.handle_input(world.now, datagram);
    assert_eq!(verdict, Verdict::NotMine);
}

#[test]
fn binding_answers_and_other_protocols_are_left_to_others() {
    let mut world = World::allocated();
    let binding = Builder::new(Class::Success, Method::BINDING, TransactionId([1; 12])).build();
    assert_eq!(world.input(at(LOCAL), &binding), Verdict::NotMine);
    assert_eq!(world.input(at(LOCAL), b"@quic"), Verdict::Consumed);
    assert_eq!(world.input(at(LOCAL), &[0x80, 1, 2, 3]), Verdict::NotMine);
}

/// What a server may do to a client.
#[derive(Debug, Clone)]
enum Step {
    Answer {
        class: bool,
        attributes: Vec<(u16, Vec<u8>)>,
    },
    Bytes(Vec<u8>),
    Send(u8),
    Wait(u16),
    Move,
    Connect(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let kinds = prop::sample::select(vec![
        0x0009_u16, 0x000d, 0x0016, 0x0014, 0x0015, 0x8002, 0x8023, 0x002a, 0x8030, 0x0020, 0x0022,
    ]);
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..24),
        Just(vec![0, 0, 4, 1]),
        Just(vec![0, 0, 4, 38]),
        Just(vec![0, 0, 3, 0]),
        Just(vec![0, 0, 0, 60]),
        Just(vec![0, 1, 0x11, 0x22, 9, 9, 9, 9]),
        Just(b"obMatJos2AAAB".to_vec()),
        Just(vec![0, 2, 0, 0]),
    ];
    let attributes = prop::collection::vec((kinds, value), 0..6);
    prop_oneof![
        4 => (any::<bool>(), attributes)
            .prop_map(|(class, attributes)| Step::Answer { class, attributes }),
        1 => prop::collection::vec(any::<u8>(), 0..64).prop_map(Step::Bytes),
        2 => any::<u8>().prop_map(Step::Send),
        2 => any::<u16>().prop_map(Step::Wait),
        1 => Just(Step::Move),
        1 => any::<u8>().prop_map(Step::Connect),
    ]
}

/// Answers the last request with whatever a hostile server makes of it.
fn answer(
    client: &mut Client,
    now: Instant,
    last: &Transmit,
    class: bool,
    attributes: &[(u16, Vec<u8>)],
) {
    let Ok(request) = Message::parse(&last.payload) else {
        return;
    };
    let class = if class { Class::Success } else { Class::Error };
    let builder = Builder::new(class, request.method(), request.transaction_id());
    let builder = attributes.iter().fold(builder, |builder, (kind, value)| {
        builder.raw_attribute(postern_wire::stun::AttributeType(*kind), value)
    });
    let bytes = builder.build();
    client.handle_input(
        now,
        Datagram {
            local: last.local,
            remote: last.remote,
            payload: &bytes,
        },
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_answer_of_a_server_makes_the_client_panic_or_send_without_end(
        stream in any::<bool>(),
        tcp in any::<bool>(),
        credentials in any::<bool>(),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let mut config = config();
        config.transport = if stream { Transport::Stream } else { Transport::Datagram };
        config.relay = if tcp && stream { Relay::Tcp } else { Relay::Udp };
        config.mobility = true;
        if !credentials {
            config.credentials = None;
        }
        let mut now = epoch();
        let mut client = Client::new(now, [1; 32], config);
        let mut last = None;
        for step in steps {
            match step {
                Step::Answer { class, attributes } => {
                    if let Some(last) = &last {
                        answer(&mut client, now, last, class, &attributes);
                    }
                }
                Step::Bytes(payload) => {
                    let (local, remote) = (client.local(), client.server());
                    client.handle_input(now, Datagram { local, remote, payload: &payload });
                }
                Step::Send(n) => _ = client.send(now, ([203, 0, 113, n], 9).into(), b"data"),
                Step::Wait(deciseconds) => {
                    now += ms(100) * u32::from(deciseconds % 3000);
                    client.handle_timeout(now);
                }
                Step::Move => client.moved(now, at("10.9.9.9:99")),
                Step::Connect(n) => _ = client.connect(now, ([203, 0, 113, n], 9).into()),
            }
            let mut sent = 0;
            while let Some(transmit) = client.poll_transmit() {
                sent += 1;
                last = Some(transmit);
            }
            prop_assert!(sent <= MAX_PERMISSIONS + MAX_CHANNELS + MAX_WAITING, "{sent}");
            while let Some(event) = client.poll_event() {
                if let Event::Redirected { .. } = event {
                    client.reconnected(now, at(LOCAL));
                }
            }
        }
        client.close(now);
        let end = now + secs(100);
        while let Some(due) = client.poll_timeout().filter(|due| *due <= end) {
            now = now.max(due);
            client.handle_timeout(now);
        }
        prop_assert_eq!(client.poll_timeout(), None);
    }
}
