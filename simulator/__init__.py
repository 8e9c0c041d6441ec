"""A telephone network on loopback: a carrier that speaks Vobiz's wire protocol, and its callees."""
