"""CSV rows are those of the csv module, wherever lines break."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bigcl.data.sources import BadRecord, metadata
from bigcl.data.sources.csv import CSV
from tests.data import formats

TEXT = st.text(st.sampled_from("ab \n\r\",;'é\u2028\x0b\x1c\ufeff\t"), max_size=6)


pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("csv") / "a.csv"


@settings(max_examples=150, deadline=None)
@given(
    rows=st.lists(st.lists(TEXT, min_size=2, max_size=2), max_size=6),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]),
    delimiter=st.sampled_from(",\t;"),
    blank=st.booleans(),
)
def test_rows_are_those_of_the_csv_module(path, rows, end, quoting, delimiter, blank):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=end * (1 + blank), quoting=quoting)
    writer.writerow(["x", "y"])
    writer.writerows(rows)
    path.write_bytes(out.getvalue().encode())
    reference = csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=delimiter)
    expected = [row for row in reference if row][1:]
    source = CSV(str(path), delimiter=delimiter)
    assert len(source) == len(expected)
    for i in reversed(range(len(source))):
        if len(expected[i]) == 2:
            assert source[i] == dict(zip("xy", expected[i], strict=True))
        else:  # the writer does not quote all that the reader breaks lines at
            with pytest.raises(BadRecord, match="values for 2 columns"):
                source[i]


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.text(st.sampled_from('ab,"\n\r'), max_size=40).map(str.encode)))
def test_any_bytes_are_read_or_refused(path, content):
    path.write_bytes(content)
    try:
        source = CSV(str(path))
    except ValueError as error:
        assert str(path) in str(error)
        return
    for i in range(len(source)):
        try:
            assert list(source[i]) == list(dict.fromkeys(source.columns[str(path)]))
        except BadRecord as error:
            assert error.shard == str(path)


def test_numbers_and_bad_rows(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfname,width,score\na,3,0.5\nb,,\nc,x,1\nd,1\n\xff,1,1\n")
    source = CSV(str(tmp_path), numbers=["width", "score"])
    assert source[0] == {"name": "a", "width": 3, "score": 0.5} and isinstance(source[0]["width"], int)
    assert source[1] == {"name": "b", "width": None, "score": None}
    for index, reason in ((2, "'x'"), (3, "2 values for 3 columns"), (4, "utf-8")):
        with pytest.raises(BadRecord, match=reason) as caught:
            source[index]
    assert caught.value.offset == 42
    assert metadata(source, ["width"], 0, 5) == {"width": [3, None, None, None, None]}


def test_columns(tmp_path):
    (tmp_path / "a.csv").write_text("1,a\n2,b\n")
    assert CSV(str(tmp_path), columns=["n", "text"])[1] == {"n": "2", "text": "b"}
    with pytest.raises(ValueError, match=r"a\.csv: no column 'width', but 1, a"):
        CSV(str(tmp_path), numbers=["width"])
    with pytest.raises(ValueError, match="one character"):
        CSV(str(tmp_path), delimiter="||")


def test_headers_may_differ_between_files(tmp_path):
    formats.write_csv([{"a": "1", "b": "2"}], tmp_path / "1.csv")
    formats.write_csv([{"b": "3", "a": "4"}], tmp_path / "2.csv")
    source = CSV(str(tmp_path))
    assert [source[0], source[1]] == [{"a": "1", "b": "2"}, {"a": "4", "b": "3"}]
