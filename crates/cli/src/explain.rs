//! Why a path is what it is: told when it is relayed, when there is none, and on request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use postern::{Allocation, Attempted, Connection, EstablishError, Explanation, Network, PathKind};
use serde::Serialize;
use tokio::task::AbortHandle;

use crate::output::{Event, Output};

/// What nobody has found out.
const UNKNOWN: &str = "unknown";

/// What a network does, in JSON (docs/json.md).
#[derive(Debug, Serialize)]
pub(crate) struct Nat {
    nat: Option<bool>,
    udp: Option<bool>,
    mapping: &'static str,
    filtering: &'static str,
    allocation: &'static str,
    port_range: Option<[u16; 2]>,
    step: Option<i16>,
}

/// A technique and what came of it, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct Tried {
    technique: &'static str,
    result: &'static str,
    probes: u32,
    elapsed_ms: u64,
    probability: Option<f64>,
}

impl From<&Network> for Nat {
    fn from(network: &Network) -> Self {
        let nat = network.nat.as_ref();
        let allocation = nat.map_or(Allocation::Unknown, |nat| nat.allocation);
        let (port_range, step) = match allocation {
            Allocation::Random(range) => (Some([range.first, range.last]), None),
            Allocation::Sequential { step, .. } => (None, Some(step)),
            Allocation::Unknown | Allocation::Preserving => (None, None),
        };
        Self {
            nat: network.has_nat(),
            udp: network.udp,
            mapping: nat.map_or(UNKNOWN, |nat| nat.mapping.as_str()),
            filtering: nat.map_or(UNKNOWN, |nat| nat.filtering.as_str()),
            allocation: allocation.as_str(),
            port_range,
            step,
        }
    }
}

impl From<&Attempted> for Tried {
    fn from(attempted: &Attempted) -> Self {
        let elapsed = attempted.elapsed.as_millis();
        Self {
            technique: attempted.technique.as_str(),
            result: attempted.result.as_str(),
            probes: attempted.probes,
            elapsed_ms: u64::try_from(elapsed).unwrap_or(u64::MAX),
            probability: attempted.probability,
        }
    }
}

/// Says it, with `line` for people.
fn tell(output: Output, explanation: &Explanation, line: &str) {
    let facts = explanation.facts();
    let event = Event::Explain {
        local_nat: (&facts.local).into(),
        remote_nat: (&facts.remote).into(),
        tried: facts.tried.iter().map(Tried::from).collect(),
        cause: facts.cause.map(|cause| cause.as_str()),
        reason: &explanation.reason(),
    };
    output.say(&event, line);
}

/// Tells why there is no path before the failure is told.
pub(crate) fn before_failing<T>(
    output: Output,
    result: Result<T, EstablishError>,
) -> Result<T, EstablishError> {
    if let Err(EstablishError::NoPath(explanation)) = &result {
        let heading = "Why there is no path to the other side:";
        tell(
            output,
            explanation,
            &format!("{heading}\n{}", explanation.details()),
        );
    }
    result
}

/// Explains the path of a connection.
#[derive(Debug)]
pub(crate) struct Explainer {
    output: Output,
    connection: Connection,
    on_request: bool,
    told: Arc<AtomicBool>,
    task: AbortHandle,
}

impl Explainer {
    /// Tells why the path is relayed as soon as that is decided. With `on_request` everything is
    /// told at the end, whatever the path.
    pub(crate) fn follow(output: Output, connection: &Connection, on_request: bool) -> Self {
        let told = Arc::<AtomicBool>::default();
        let (mut explanations, following) = (connection.explanations(), Arc::clone(&told));
        let (paths, once) = (connection.paths(), !on_request);
        let task = tokio::spawn(async move {
            let decided = |explanation: &Explanation| explanation.is_final();
            while once && explanations.wait_for(decided).await.is_ok() {
                let explanation = explanations.borrow_and_update().clone();
                if paths.borrow().kind == PathKind::Relayed {
                    tell_once(output, &explanation, &following);
                    return;
                }
                if explanations.changed().await.is_err() {
                    return;
                }
            }
        });
        Self {
            output,
            connection: connection.clone(),
            on_request,
            told,
            task: task.abort_handle(),
        }
    }

    /// The transfer is over: tells what has not been told and somebody wants to know.
    pub(crate) fn finish(self) {
        self.task.abort();
        let explanation = self.connection.explain();
        if self.on_request {
            tell(self.output, &explanation, &explanation.to_string());
        } else if self.connection.path().kind == PathKind::Relayed {
            tell_once(self.output, &explanation, &self.told);
        }
    }
}

fn tell_once(output: Output, explanation: &Explanation, told: &AtomicBool) {
    if !told.swap(true, Ordering::Relaxed) {
        let sentence = explanation.sentence();
        tell(
            output,
            explanation,
            &format!("{sentence} (--explain says more.)"),
        );
    }
}
