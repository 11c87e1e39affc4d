"""CSV files of image sets are read and written in their format, and what is wrong with one is named."""

import csv

import pytest

from sscd_jax.datasets.annotations import Edited, read_edits, read_ground_truth, write_csv


def test_released_ground_truth_has_no_header(tmp_path):
    path = tmp_path / "dev_queries_groundtruth.csv"
    path.write_text("Q00000,R000005\nQ00001,\nQ00002,R000001\n")
    assert read_ground_truth(path) == [("Q00000", "R000005"), ("Q00002", "R000001")]


def test_read_ground_truth(tmp_path):
    path = tmp_path / "truth.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["query_id", "reference_id"], ["Q1", "R1"], ["Q2", ""], ["Q3", "R,3"]])
    assert read_ground_truth(path) == [("Q1", "R1"), ("Q3", "R,3")]
    path.write_text("Q1,R1\n")
    with pytest.raises(ValueError, match="first line must be query_id,reference_id"):
        read_ground_truth(path)
    path.write_text("query_id,reference_id\nQ1\n")
    with pytest.raises(ValueError, match="line 2"):
        read_ground_truth(path)
    path.write_text('query_id,reference_id\n"' + "x" * 140_000)
    with pytest.raises(ValueError, match=r"truth.csv: .*quotation mark"):
        read_ground_truth(path)
    path.write_text("query_id,reference_id\nQ1,\n")
    with pytest.raises(ValueError, match="it has no pair of a query and a reference"):
        read_ground_truth(path)
    with pytest.raises(ValueError, match="no such file"):
        read_ground_truth(tmp_path / "absent.csv")


def test_files_of_edits(tmp_path):
    path = tmp_path / "queries.csv"
    path.write_text("query_id,edits,strength\nq1,crop + invert channel,weak\nq2,,\n")
    assert read_edits(path) == {"q1": Edited(("crop", "invert channel"), "weak"), "q2": Edited(())}
    path.write_text("query_id,edits\nq1,crop\n")
    assert read_edits(path) == {"q1": Edited(("crop",))}
    path.write_text("query_id,reference_id\nq1,r1\n")
    with pytest.raises(ValueError, match=r"queries.csv has no column edits"):
        read_edits(path)
    path.write_text("query_id,edits\nq1\n")
    assert read_edits(path) == {"q1": Edited(())}
    path.write_bytes(b"query_id,edits\n\xff\xfe")
    with pytest.raises(ValueError, match=r"queries.csv: not UTF-8"):
        read_edits(path)
    with pytest.raises(ValueError, match="no such file"):
        read_edits(tmp_path / "absent.csv")


def test_tables_have_commas_and_line_feeds(tmp_path):
    write_csv(tmp_path / "a.csv", ("id", "source"), [("R1", "a,b"), ("R2", "é")])
    assert (tmp_path / "a.csv").read_bytes() == 'id,source\nR1,"a,b"\nR2,é\n'.encode()
