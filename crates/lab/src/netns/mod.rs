//! Real Linux NATs in network namespaces.
