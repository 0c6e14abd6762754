from pipeline.cli.app import program

program()
