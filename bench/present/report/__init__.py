"""The words, facts and pages of a report. Example: python run_bench.py report"""
