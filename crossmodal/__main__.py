from crossmodal.main import main

main()
