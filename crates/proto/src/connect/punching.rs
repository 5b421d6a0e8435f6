//! What peers tell each other about their NATs, between the words of signalling and those of
//! [`crate::punch`].

use postern_wire::signal::{self, NatAllocation, NatFiltering, NatMapping, PeerMessage};

use crate::punch::{Allocation, Filtering, Mapping, Message, NatReport, PortRange, Prediction};

/// What the agent wants told.
pub(super) fn told(message: Message) -> PeerMessage {
    match message {
        Message::Nat(nat) => PeerMessage::Nat(signal::Nat {
            mapped: nat.mapped,
            mapping: mapping_told(nat.mapping),
            filtering: filtering_told(nat.filtering),
            allocation: allocation_told(nat.allocation),
            parity: nat.parity,
        }),
        Message::Prediction(Prediction { first, step, count }) => {
            PeerMessage::Prediction(signal::Prediction { first, step, count })
        }
        Message::Began => PeerMessage::Began,
    }
}

/// What the peer has told of its NAT.
pub(super) fn heard(nat: &signal::Nat) -> Message {
    Message::Nat(NatReport {
        mapped: nat.mapped,
        mapping: match nat.mapping {
            NatMapping::Unknown => Mapping::Unknown,
            NatMapping::EndpointIndependent => Mapping::EndpointIndependent,
            NatMapping::PortIndependent => Mapping::PortIndependent,
            NatMapping::AddressDependent => Mapping::AddressDependent,
            NatMapping::AddressAndPortDependent => Mapping::AddressAndPortDependent,
            NatMapping::EndpointDependent => Mapping::EndpointDependent,
        },
        filtering: match nat.filtering {
            NatFiltering::Unknown => Filtering::Unknown,
            NatFiltering::EndpointIndependent => Filtering::EndpointIndependent,
            NatFiltering::AddressDependent => Filtering::AddressDependent,
            NatFiltering::AddressAndPortDependent => Filtering::AddressAndPortDependent,
        },
        allocation: match nat.allocation {
            NatAllocation::Unknown => Allocation::Unknown,
            NatAllocation::Preserving => Allocation::Preserving,
            NatAllocation::Sequential {
                step,
                last,
                foreign_flows,
            } => Allocation::Sequential {
                step,
                last,
                foreign_flows,
            },
            NatAllocation::Random { first, last } => Allocation::Random(PortRange { first, last }),
        },
        parity: nat.parity,
    })
}

/// Where the peer says that it has opened a mapping.
pub(super) fn predicted(prediction: signal::Prediction) -> Message {
    let signal::Prediction { first, step, count } = prediction;
    Message::Prediction(Prediction { first, step, count })
}

fn mapping_told(mapping: Mapping) -> NatMapping {
    match mapping {
        Mapping::Unknown => NatMapping::Unknown,
        Mapping::EndpointIndependent => NatMapping::EndpointIndependent,
        Mapping::PortIndependent => NatMapping::PortIndependent,
        Mapping::AddressDependent => NatMapping::AddressDependent,
        Mapping::AddressAndPortDependent => NatMapping::AddressAndPortDependent,
        Mapping::EndpointDependent => NatMapping::EndpointDependent,
    }
}

fn filtering_told(filtering: Filtering) -> NatFiltering {
    match filtering {
        Filtering::Unknown => NatFiltering::Unknown,
        Filtering::EndpointIndependent => NatFiltering::EndpointIndependent,
        Filtering::AddressDependent => NatFiltering::AddressDependent,
        Filtering::AddressAndPortDependent => NatFiltering::AddressAndPortDependent,
    }
}

fn allocation_told(allocation: Allocation) -> NatAllocation {
    match allocation {
        Allocation::Unknown => NatAllocation::Unknown,
        Allocation::Preserving => NatAllocation::Preserving,
        Allocation::Sequential {
            step,
            last,
            foreign_flows,
        } => NatAllocation::Sequential {
            step,
            last,
            foreign_flows,
        },
        Allocation::Random(PortRange { first, last }) => NatAllocation::Random { first, last },
    }
}
