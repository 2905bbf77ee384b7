#!/usr/bin/env python3
"""Compares a report of critest with what is expected: a line for each test that failed, totals at the end.

usage: judge.py JUNIT.XML EXPECTED.TXT SECOND.XML    SECOND.XML (need not be there): of another try of what failed
       judge.py --again JUNIT.XML EXPECTED.TXT       the expression that selects what failed unexpectedly; empty: none
"""
import os
import re
import sys
import xml.etree.ElementTree as tree


def expectations(path):
    """Lines `part of a test's name | reason`."""
    found = {}
    with open(path) as file:
        for line in file:
            if line.strip() and not line.startswith('#'):
                name, _, reason = line.partition(' | ')
                found[name.strip()] = reason.strip()
    return found


def cases(path):
    """Name to (status, what was said)."""
    found = {}
    if not os.path.exists(path):
        return found
    for case in tree.parse(path).iter('testcase'):
        name = re.sub(r'^\[It\] (\[k8s\.io\] )?', '', case.get('name'))
        if name.startswith('['):
            continue  # what runs before and after the suite
        fault = case.find('failure')
        fault = case.find('error') if fault is None else fault
        found[name] = case.get('status'), ' '.join((fault.get('message') or '').split())[:600] if fault is not None else ''
    return found


def failed_in(found, expected):
    return [name for name, (status, _) in found.items() if status not in ('passed', 'skipped', 'pending')
            and not any(part in name for part in expected)]


def main():
    again = sys.argv[1] == '--again'
    report, expected_path = sys.argv[-2:] if again else sys.argv[1:3]
    expected = expectations(expected_path)
    found = cases(report)
    if again:
        print('|'.join(re.escape(name) for name in failed_in(found, expected)))
        return
    if not found:
        print(f'not ok critest: it wrote no report: see {os.path.dirname(report)}')
        print('critest: 0 passed, 1 failed, 0 skipped')
        return
    second = cases(sys.argv[3])
    for name in failed_in(found, expected):
        if second.get(name, ('', ''))[0] == 'passed':
            found[name] = second[name]
            print(f'# {name}: passed at the second try')
    passed = failed = skipped = known = conformance = conformance_passed = 0
    for name, (status, text) in found.items():
        named = '[Conformance]' in name
        conformance += named
        reason = next((why for part, why in expected.items() if part in name), None)
        if status == 'passed':
            passed += 1
            conformance_passed += named
            if reason:
                print(f'not ok {name}: passes, though expected.txt says: {reason}')
                failed += 1
        elif status in ('skipped', 'pending'):
            skipped += 1
        elif reason:
            print(f'expected {name}: {reason}')
            known += 1
        else:
            print(f'not ok {name}: {text or status}')
            failed += 1
    print(f'critest: {passed} of {len(found)} tests pass, Conformance {conformance_passed} of {conformance}, '
          f'{known} fail for a known reason, {skipped} cannot run here')
    print(f'critest: {passed} passed, {failed} failed, {known + skipped} skipped')


main()
