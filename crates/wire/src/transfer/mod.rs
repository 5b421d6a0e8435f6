//! The transfer protocol: offers, files and receipts on a connection between two peers.
//!
//! The sender opens one bidirectional stream and both directions carry *frames*:
//!
//! ```text
//!  0        1                          5
//! +--------+--------+--------+--------+--------+----- ... -----+
//! |  type  |      length (u32, big endian)     |  body         |
//! +--------+--------+--------+--------+--------+----- ... -----+
//! ```
//!
//! ```text
//! sender                                receiver
//!   Offer  ------------------------------->       names, sizes, totals
//!          <-------------------------------  Accept | Refuse
//!   File Data* End  File Data* End … ------>      back to back, no round trip per file
//!   Finish -------------------------------->
//!          <-------------------------------  Done   everything verified and in place
//! ```
//!
//! Either side may say `Failed` at any frame border instead of its next frame.
//!
//! One stream, not one for each file: order makes the frames self-contained, a million
//! empty files cost no stream credit, and the receiver needs one parser and one buffer.
//! `Data` frames instead of a bare run of bytes: the sender can tell the receiver in the
//! middle of a file that the file changed, for 5 bytes in every [`MAX_DATA`].
//! The hash travels in `End`, after the bytes, so nothing is read twice.
//!
//! Types from 0x80 are optional: a receiver that does not know one skips its body. An
//! unknown type below 0x80 is an error. The version is in `Offer` and `Accept`.

mod codec;
mod escape;
mod frame;
mod name;

pub use codec::{Decoded, HEADER_LEN, MAX_BODY, MAX_DATA, ParseError, data_header, decode};
pub use escape::escape;
pub use frame::{
    Failure, FailureKind, File, Frame, Listed, MAX_FILES, MAX_LISTED, MAX_MESSAGE, Offer,
    Timestamp, Totals, VERSION,
};
pub use name::{MAX_NAME, Name, NameError, NameFault, PART_SUFFIX};

#[cfg(test)]
mod tests;
