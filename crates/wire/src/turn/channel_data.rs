use super::ChannelNumber;

/// Length in bytes of the ChannelData header (RFC 8656 section 12.4).
pub const CHANNEL_HEADER_LEN: usize = 4;

/// ChannelData (RFC 8656 section 12.4): data with four bytes in front.
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |         Channel Number        |            Length             |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                                                               |
/// /                       Application Data                        /
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelData<'a> {
    /// The channel.
    pub channel: ChannelNumber,
    /// The data, without padding.
    pub data: &'a [u8],
}

impl<'a> ChannelData<'a> {
    /// Reads a datagram. What follows the data is padding and ignored.
    ///
    /// # Errors
    ///
    /// Says why it is not ChannelData; such a datagram is dropped.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, ChannelDataError> {
        let ([n0, n1, l0, l1], rest) = datagram
            .split_first_chunk()
            .ok_or(ChannelDataError::Truncated)?;
        let channel = ChannelNumber::new(u16::from_be_bytes([*n0, *n1]))
            .map_err(|_| ChannelDataError::NotChannelData)?;
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let data = rest.get(..length).ok_or(ChannelDataError::Truncated)?;
        Ok(Self { channel, data })
    }

    /// As a datagram, without padding. Data beyond 65,535 bytes is left out: no datagram
    /// has as many.
    #[must_use]
    pub fn to_datagram(&self) -> Vec<u8> {
        let length = u16::try_from(self.data.len()).unwrap_or(u16::MAX);
        let data = self.data.get(..usize::from(length)).unwrap_or_default();
        [&channel_header(self.channel, length)[..], data].concat()
    }

    /// As part of a stream: padded to a multiple of four bytes (RFC 8656 section 12.5).
    #[must_use]
    pub fn to_stream(&self) -> Vec<u8> {
        let mut bytes = self.to_datagram();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}

/// The header of ChannelData with `length` bytes of data.
#[must_use]
pub const fn channel_header(channel: ChannelNumber, length: u16) -> [u8; CHANNEL_HEADER_LEN] {
    let [n0, n1] = channel.number().to_be_bytes();
    let [l0, l1] = length.to_be_bytes();
    [n0, n1, l0, l1]
}

/// Why a datagram is not ChannelData: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelDataError {
    /// Fewer bytes than the header, or than it announces.
    #[error("ChannelData is cut short")]
    Truncated,
    /// It does not start with a channel number.
    #[error("not ChannelData")]
    NotChannelData,
}
