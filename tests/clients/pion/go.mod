module earshot/pionclient

go 1.19
