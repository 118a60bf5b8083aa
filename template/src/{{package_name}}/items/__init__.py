"""Items, written by the command below; `make resource-remove NAME=items` removes them if unedited.

make resource NAME=items FIELDS="name:str(100)! description:text(1000)? quantity:int(0..)=0"
"""
