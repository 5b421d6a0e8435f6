mod documents;
mod http;
mod ssdp;
