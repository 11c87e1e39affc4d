"""Jobs for Apache Beam: the work of one machine, on many."""
