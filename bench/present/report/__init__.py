"""The report page: verdict, table, charts, models, protocol, files. Example: python run_bench.py report"""
