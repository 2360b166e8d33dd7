"""Online: a REST API and a web page over a snapshot."""
