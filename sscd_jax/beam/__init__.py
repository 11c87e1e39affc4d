"""Jobs for Apache Beam, which do on many machines what a command does on one."""
