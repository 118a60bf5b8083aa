"""${d.title}, written by the command below; `make resource-remove NAME=${d.name}` removes them if unedited.

${d.command}
"""
