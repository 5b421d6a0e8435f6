use postern_wire::stun::{Builder, ErrorCode, Method};
use rand_core::SeedableRng;

use super::*;
use crate::stun::server::tests::start;

const LOCAL: &str = "192.168.1.2:5000";
const REMOTE: &str = "192.0.2.1:3478";

fn id(number: u8) -> TransactionId {
    TransactionId([number; 12])
}

fn request(number: u8) -> Request {
    Request {
        local: LOCAL.parse().unwrap(),
        remote: REMOTE.parse().unwrap(),
        id: id(number),
        payload: Builder::new(Class::Request, Method::BINDING, id(number)).build(),
        policy: RetransmitPolicy::default(),
    }
}

fn from<'a>(remote: &str, payload: &'a [u8]) -> Datagram<'a> {
    Datagram {
        local: LOCAL.parse().unwrap(),
        remote: remote.parse().unwrap(),
        payload,
    }
}

fn success(number: u8) -> Vec<u8> {
    Builder::new(Class::Success, Method::BINDING, id(number)).build()
}

/// One request that was sent.
fn started(now: Instant) -> Transactions {
    let mut transactions = Transactions::new();
    transactions.request(now, request(1)).unwrap();
    assert_eq!(transactions.poll_transmit(), Some(transmit(&request(1))));
    transactions
}

/// Runs the machine to its end; when it sent, in milliseconds since `from`.
fn run_out(transactions: &mut Transactions, from: Instant) -> (Vec<u128>, u128) {
    let (mut sent, mut now) = (Vec::new(), from);
    while let Some(deadline) = transactions.poll_timeout() {
        now = deadline;
        transactions.handle_timeout(now);
        while transactions.poll_transmit().is_some() {
            sent.push(now.duration_since(from).as_millis());
        }
    }
    (sent, now.duration_since(from).as_millis())
}

fn timed_out() -> Event {
    Event::TimedOut {
        id: id(1),
        local: LOCAL.parse().unwrap(),
        remote: REMOTE.parse().unwrap(),
    }
}

#[test]
fn a_request_is_sent_seven_times_and_given_up_after_39_500_ms() {
    let now = start();
    let mut transactions = started(now);
    let (again, end) = run_out(&mut transactions, now);
    assert_eq!(again, [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    assert_eq!(end, 39_500);
    assert_eq!(transactions.poll_event(), Some(timed_out()));
    assert_eq!(transactions.poll_event(), None);
    assert_eq!(transactions.outstanding(), 0);
}

#[test]
fn the_policy_is_the_callers() {
    let (now, mut transactions) = (start(), Transactions::new());
    let policy = RetransmitPolicy {
        initial_rto: Duration::from_millis(100),
        rc: 3,
        rm: 4,
    };
    let request = Request {
        policy,
        ..request(1)
    };
    transactions.request(now, request).unwrap();
    assert!(transactions.poll_transmit().is_some());
    assert_eq!(run_out(&mut transactions, now), (vec![100, 300], 700));
}

#[test]
fn nothing_happens_before_the_deadline() {
    let now = start();
    let mut transactions = started(now);
    transactions.handle_timeout(now + Duration::from_millis(499));
    assert_eq!(transactions.poll_transmit(), None);
    assert_eq!(
        transactions.poll_timeout(),
        Some(now + Duration::from_millis(500))
    );
}

#[test]
fn a_late_timer_sends_once_not_in_a_burst() {
    let now = start();
    let mut transactions = started(now);
    transactions.handle_timeout(now + Duration::from_secs(10));
    assert!(transactions.poll_transmit().is_some());
    assert_eq!(transactions.poll_transmit(), None);
}

#[test]
fn a_success_response_ends_the_transaction_and_gives_the_round_trip_time() {
    let now = start();
    let mut transactions = started(now);
    let (payload, later) = (success(1), now + Duration::from_millis(42));
    let verdict = transactions.handle_input(later, from(REMOTE, &payload));
    assert_eq!(verdict, Verdict::Consumed);
    let response = Response {
        id: id(1),
        local: LOCAL.parse().unwrap(),
        remote: REMOTE.parse().unwrap(),
        rtt: Some(Duration::from_millis(42)),
        payload,
    };
    assert_eq!(transactions.poll_event(), Some(Event::Success(response)));
    assert_eq!(transactions.poll_timeout(), None);
}

#[test]
fn an_error_response_ends_the_transaction() {
    let mut transactions = started(start());
    let payload = Builder::new(Class::Error, Method::BINDING, id(1))
        .attribute(&ErrorCode::BAD_REQUEST)
        .build();
    transactions.handle_input(start(), from(REMOTE, &payload));
    assert!(matches!(transactions.poll_event(), Some(Event::Error(_))));
    assert_eq!(transactions.outstanding(), 0);
}

#[test]
fn after_a_retransmission_the_round_trip_time_is_not_known() {
    let now = start();
    let mut transactions = started(now);
    transactions.handle_timeout(now + Duration::from_millis(500));
    let payload = success(1);
    transactions.handle_input(now + Duration::from_millis(510), from(REMOTE, &payload));
    let Some(Event::Success(response)) = transactions.poll_event() else {
        panic!("a success response was handed in");
    };
    assert_eq!(response.rtt, None);
}

#[test]
fn a_second_response_is_not_mine() {
    let (mut transactions, payload) = (started(start()), success(1));
    transactions.handle_input(start(), from(REMOTE, &payload));
    let again = transactions.handle_input(start(), from(REMOTE, &payload));
    assert_eq!(again, Verdict::NotMine);
}

#[test]
fn a_response_from_elsewhere_is_not_mine_and_changes_nothing() {
    let (mut transactions, payload) = (started(start()), success(1));
    for remote in ["192.0.2.1:3479", "192.0.2.2:3478"] {
        let verdict = transactions.handle_input(start(), from(remote, &payload));
        assert_eq!(verdict, Verdict::NotMine);
    }
    assert!(transactions.is_pending(id(1)));
    assert_eq!(transactions.poll_event(), None);
}

#[test]
fn another_transaction_id_a_request_and_garbage_are_not_mine() {
    let mut transactions = started(start());
    for payload in [success(2), request(1).payload, vec![0; 40], Vec::new()] {
        let verdict = transactions.handle_input(start(), from(REMOTE, &payload));
        assert_eq!(verdict, Verdict::NotMine);
    }
    assert!(transactions.is_pending(id(1)));
}

#[test]
fn a_response_that_the_caller_does_not_verify_leaves_the_request_alive() {
    let (transactions, payload) = (started(start()), success(1));
    let datagram = from(REMOTE, &payload);
    let message = transactions.response(&datagram).unwrap();
    assert!(message.verify_integrity(b"key").is_err());
    assert!(transactions.is_pending(id(1)));
}

#[test]
fn a_cancelled_request_is_not_sent_again_but_its_response_is_taken() {
    let now = start();
    let mut transactions = started(now);
    transactions.cancel(id(1));
    transactions.handle_timeout(now + Duration::from_millis(500));
    assert_eq!(transactions.poll_transmit(), None);
    let payload = success(1);
    transactions.handle_input(now + Duration::from_millis(600), from(REMOTE, &payload));
    assert!(matches!(transactions.poll_event(), Some(Event::Success(_))));
}

#[test]
fn a_cancelled_request_times_out_when_it_would_have_anyway() {
    let now = start();
    let mut transactions = started(now);
    transactions.cancel(id(1));
    assert_eq!(run_out(&mut transactions, now), (Vec::new(), 39_500));
    assert_eq!(transactions.poll_event(), Some(timed_out()));
}

#[test]
fn a_forgotten_request_leaves_nothing_behind() {
    let (mut transactions, payload) = (started(start()), success(1));
    transactions.forget(id(1));
    assert_eq!(transactions.poll_timeout(), None);
    let verdict = transactions.handle_input(start(), from(REMOTE, &payload));
    assert_eq!(verdict, Verdict::NotMine);
    assert_eq!(transactions.poll_event(), None);
}

#[test]
fn a_transaction_id_in_use_is_refused() {
    let mut transactions = started(start());
    let again = transactions.request(start(), request(1));
    assert_eq!(again, Err(RequestError::DuplicateId));
}

#[test]
fn the_number_of_requests_is_bounded() {
    let (now, mut transactions) = (start(), Transactions::new());
    let numbered = |number: u16| {
        let mut bytes = [0; 12];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        Request {
            id: TransactionId(bytes),
            ..request(0)
        }
    };
    for number in 0..1024 {
        transactions.request(now, numbered(number)).unwrap();
    }
    let one_more = transactions.request(now, numbered(1024));
    assert_eq!(one_more, Err(RequestError::TooMany));
}

#[test]
fn the_earliest_deadline_comes_first_whatever_the_order_of_requests() {
    let (now, mut transactions) = (start(), Transactions::new());
    transactions.request(now, request(9)).unwrap();
    let fast = RetransmitPolicy {
        initial_rto: Duration::from_millis(50),
        ..RetransmitPolicy::default()
    };
    let request = Request {
        policy: fast,
        ..request(8)
    };
    transactions.request(now, request).unwrap();
    assert_eq!(
        transactions.poll_timeout(),
        Some(now + Duration::from_millis(50))
    );
}

#[test]
fn the_same_seed_gives_the_same_ids_and_no_id_twice() {
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let first = random_transaction_id(&mut rng);
    assert_ne!(random_transaction_id(&mut rng), first);
    let mut again = ChaCha20Rng::from_seed([1; 32]);
    assert_eq!(random_transaction_id(&mut again), first);
}
