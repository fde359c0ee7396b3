"""The paper's network experiment: a ResNet18 on CIFAR-10, on CPUs and GPUs by the same code (paper, sections 4, D.4, D.5).

``data`` reads the images, ``resnet`` is the network, ``settings`` says what a run does, ``steps`` is the algorithm,
``measure`` what is measured, ``train`` the resumable run with its command, ``records`` the stored results of the book.
"""
