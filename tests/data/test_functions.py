"""Functions and their docstrings."""

import ast

from bigcl.data.sources.functions import Functions, functions

SOURCE = b'''
class A:
    async def add(self, a, b):  # a comment
        """Return the sum of two numbers.

        More of it."""
        return a + b

def short():
    """Too few words."""
    return 1

def nothing():
    """Five words or even more, but no body."""

def silent(): return 2
'''


def test_a_function_and_the_first_line_of_its_docstring():
    code = "async def add(self, a, b):\n    return a + b"
    assert list(functions(SOURCE, "a.py")) == [
        {"text": "Return the sum of two numbers.", "code": code, "name": "a.py:add"}
    ]
    assert list(functions(b"print 'of another Python'", "b.py")) == []


def test_splits_hold_each_function_of_a_package_once():
    train, test = Functions("train", ["optax"]), Functions("test", ["optax"])
    found = [source[i] for source in (train, test) for i in range(len(source))]
    assert len({f["code"] for f in found}) == len(found) > 100 and len(test) == -(-len(found) // 10)
    for f in found:
        assert len(f["text"].split()) >= 5 and "\n" not in f["text"] and f["name"].startswith("optax/")
        node = ast.parse(f["code"]).body[0]
        assert node.name == f["name"].rpartition(":")[2] and ast.get_docstring(node) != f["text"]
    train[0]["text"] = "changed"
    assert train[0]["text"] != "changed"


def test_the_standard_library_is_there_for_the_asking():
    source = Functions()
    assert len(source) > 1_400  # as many as CoCoSoDa's claim trains on
    assert not any("/test/" in f["name"] or "site-packages" in f["name"] for f in source.functions)
