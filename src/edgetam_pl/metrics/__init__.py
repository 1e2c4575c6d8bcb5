"""What a mask is worth: J, F and J&F of video objects, G of YouTube-VOS, mIoU at k clicks."""
